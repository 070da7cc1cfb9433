"""Write docs/model_zoo.md: what was trained, from the records in docs/results."""

import argparse
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from mmwau.experiment.record import TrainingRecord
from mmwau.experiment.report import SuiteReport
from mmwau.experiment.setting import Setting
from mmwau.experiment.suite import Suite, read_suite
from mmwau.files.records import read_records
from mmwau.files.whole import write_whole

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'model_zoo.md'
RESULTS = ROOT / 'docs' / 'results'
SUITES = ROOT / 'configs' / 'suites'
# By the end of a config's name.
DATA = {
    'bccd': ('BCCD blood cells', 'box AP on the validation images'),
    'raccoon': ('Raccoons', 'box AP on the validation images'),
    'cards': ('Playing cards', 'box AP on the validation images'),
    'coco': ('COCO 2017', 'box AP on val2017'),
    'cifar10': (
        'CIFAR-10',
        'top-1 accuracy in % on the test images (three optimizers: on 1,500 of them)',
    ),
    'cifar100': ('CIFAR-100', 'top-1 accuracy in % on the test images'),
    'in1k': ('ImageNet-1k', 'top-1 accuracy in % on the validation images'),
    'demo': ('Drawn shapes', 'box AP on the validation images'),
    'shapes': ('Drawn shapes, segmented', 'mIoU on the validation images'),
    'cityscapes': ('Cityscapes', 'mIoU on the validation images'),
    'dota': ('DOTA 1.0', 'AP at IoU 0.5 of rotated boxes'),
    'keypoints': ('COCO 2017 keypoints', 'keypoint AP on val2017'),
}
HEADER = """\
| recipe | arm | runs | baseline | arm | Gap (95 % interval) | record |
|---|---|--:|--:|--:|--:|---|
"""
NONE = '–'
# Options of a suite that make its trainings others than the recipes.
CHANGES = ('train_cfg.max', 'train_dataloader.batch_size', 'train_dataloader.dataset.indices')
# The readings by what names them in the names of configs, the longest first.
READINGS = {
    '_wau_authors_layers_': "WAU, authors' second way",
    '_wau_layers_': 'WAU, whole layers',
    '_wau_authors_': "WAU, authors' code",
    '_wau_': 'WAU',
}
HEAD = """\
# Model zoo

All configs of this repository with WAU, and what was trained of them. Baseline: the same config
without WAU. Metrics are means ± standard deviation over seeds. The Gap is the arm minus the
baseline, paired by seed, with its 95 % interval; an interval that holds 0 means that these runs do
not tell the two apart. A recipe has a link to the config of its baseline, an arm to its own. There
are no weights to download.

Results so far are of small networks (the VGG19-BN is a quarter as wide) and short trainings on two
CPU cores; what they say, with the
overlap: [results](results.md). Rows with "–" have no comparison of arms at the recipe's length yet.

Data without a published comparison yet: {none}. Single trainings are elsewhere: the learning rates
of [fine-tuning](results/finetune_rates.md), the demo [pruned](analysis.md#what-we-saw), the
[segmented shapes](usage.md#other-projects). An arm such as "learning rate × 0.5" is the linked
config with options, which its record has.

- `python tools/train.py CONFIG` trains one config, `bash tools/dist_train.sh CONFIG 8` on 8 GPUs.
- The commands below train [suites](experiments.md): all their arms and seeds. What they write into
  `docs/results` comes onto this page with `python docs/model_zoo.py`.
- A record has the curves of each run, and the command that repeats this run alone.
"""


def link(path: Path, text: str) -> str:
    """A link to a file, from this page."""
    return f'[{text}]({os.path.relpath(path, PAGE.parent)})'


def data_of(config: Path) -> str:
    """The data that a config trains on, a key of DATA."""
    return config.stem.rpartition('_')[2]


def read_report(path: Path) -> tuple[Suite, SuiteReport]:
    """The suite that a file of records belongs to, and what came out."""
    suite = read_suite(SUITES / path.name.replace('.json', '.py'))
    records = {record.key: record for record in read_records(TrainingRecord, path)}
    trained = {
        one: records[key]
        for one in suite.trainings
        if (key := (one.setting, one.arm, one.seed)) in records
    }
    return suite, SuiteReport(suite, trained)


def trained_rows(
    name: str, setting: Setting, configs: dict[str, Path], record: str
) -> Iterator[list[str]]:
    """A row for each arm of a setting beside the baseline."""
    baseline, *arms = setting.table().rows
    recipe = link(configs[setting.baseline], name)
    for arm, runs, metric, gap, *_ in arms:
        yield [recipe, link(configs[arm], arm), runs, baseline[2], metric, gap, record]
        recipe = ''  # named once


def untrained_row(baseline: Path, configs: list[Path]) -> list[str]:
    """The row of a recipe with the readings in which nobody has trained it."""
    arms = '; '.join(link(config, READINGS[reading_of(config)]) for config in configs)
    return [link(baseline, baseline.stem), arms, '0', NONE, NONE, NONE, 'no comparison yet']


def reading_of(config: Path) -> str:
    """The part of a config's name that says which reading it is, a key of READINGS."""
    return next(part for part in READINGS if part in config.name)


def write_page() -> str:
    """The page's text."""
    rows, commands = {data: [] for data in DATA}, {data: [] for data in DATA}
    trained = dict.fromkeys(DATA, False)
    in_full = set()
    for path in sorted(SUITES.glob('*.py')):
        if path.stem.endswith('_rates'):  # which only choose the learning rates of others
            continue
        settings = Config.fromfile(path).settings
        data_by_setting = {name: data_of(Path(one.config)) for name, one in settings.items()}
        records = RESULTS / f'{path.stem}.json'
        for data in dict.fromkeys(data_by_setting.values()):
            commands[data].append(
                f'python tools/experiment.py configs/suites/{path.name} --out docs/results'
                f'{"" if records.exists() else "  # no results yet"}\n'
            )
        if not records.exists():
            continue
        suite, report = read_report(records)
        options = Config.fromfile(path).options
        shorter = any(name.startswith(CHANGES) for name in options)
        for setting in report.settings:
            trainings = [one for one in suite.trainings if one.setting == setting.name]
            configs = {one.arm: ROOT / one.config for one in trainings}
            data = data_by_setting[setting.name]
            trained[data] = True
            own = 'options' in settings[setting.name]
            name = f'{suite.title}, {setting.name}' if shorter and not own else setting.name
            rows[data] += trained_rows(name, setting, configs, link(records, records.name))
            if not (own or shorter):
                in_full |= set(configs.values())
    untrained = defaultdict(list)
    for config in sorted((ROOT / 'configs').glob('**/*_wau_*.py')):
        if config not in in_full:
            name = config.name.replace(reading_of(config), '_')
            untrained[config.with_name(name)].append(config)
    for baseline, configs in untrained.items():
        configs.sort(key=lambda config: [*READINGS][::-1].index(reading_of(config)))
        rows[data_of(baseline)].append(untrained_row(baseline, configs))
    none = ', '.join(title for data, (title, _) in DATA.items() if not trained[data])
    parts = [HEAD.format(none=none or 'none')]
    for data, (title, metric) in DATA.items():
        suites = f'```bash\n{"".join(commands[data])}```\n\n' if commands[data] else ''
        parts += [
            f'\n## {title}\n\nMetric: {metric}.\n\n{suites}',
            HEADER,
            *(f'| {" | ".join(row)} |\n' for row in rows[data]),
        ]
    return ''.join(parts)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    os.chdir(ROOT)
    write_whole(write_page().encode(), PAGE)


if __name__ == '__main__':
    main()
