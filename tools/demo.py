"""The demo: train a detector on drawn shapes without WAU and with it, and show what WAU does.

About 7 minutes on 2 quiet CPU cores. The trainings are those of configs/suites/demo.py with the
first seed, both at a time; stopped, the demo goes on where it was. All it writes is in data/demo
and work_dirs/demo.
"""

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import mmcv
import torch
from mmengine.fileio import load
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from torch import nn
from torchvision.ops import nms

from mmwau.analysis.evaluation import quiet
from mmwau.datasets.shapes import CLASSES, make_shapes
from mmwau.experiment.record import TrainingRecord
from mmwau.experiment.suite import Training, read_suite
from mmwau.experiment.trainer import LOG, SuiteTrainer, find_records, read_scalars
from mmwau.overlap import layer_overlap, mean_overlap, random_overlap
from mmwau.reporting.numbers import NO_VALUE, number_text
from mmwau.reporting.plots import plot_detections, plot_overlap
from mmwau.reporting.terminal import text_console
from mmwau.scripts.errors import end_on_signals, run_script
from mmwau.targets import DEFAULT_TARGETS, find_convolutions, find_layers

ROOT = Path(__file__).resolve().parents[1]
SUITE = Path('configs/suites/demo.py')
DATA, WORK_DIR = Path('data/demo'), Path('work_dirs/demo')
SHOWN_IMAGES = 8
LOG_LINES = 12
AP50, OVERLAP = 'coco/bbox_mAP_50', 'overlap'
# What is shown of a training as it goes on, and at its end: labels, values and their decimals.
CELLS = {
    'loss': ('loss', 3),
    'AP50': (AP50, 3),
    'overlap': (OVERLAP, 4),
    'active': ('active_fraction', 2),
}
ROWS = {
    'AP, mean over IoU 0.50 to 0.95': ('coco/bbox_mAP', 3),
    'AP at IoU 0.50': (AP50, 3),
    'AP at IoU 0.75': ('coco/bbox_mAP_75', 3),
    'filter overlap, mean of the layers': (OVERLAP, 4),
}


class Progress:
    """How far a training is, as far as its log shows."""

    def __init__(self, training: Training):
        self.training, self.folder = training, WORK_DIR / training.folder
        self.epochs = training.cfg.train_cfg.max_epochs
        dataset = training.cfg.train_dataloader.dataset
        images = load(Path(dataset.data_root, dataset.ann_file))['images']
        self.per_epoch = math.ceil(len(images) / training.cfg.train_dataloader.batch_size)
        self.ended = False
        self.began: tuple[float, int] | None = None
        self.read()

    def read(self) -> None:
        """Read what was logged since."""
        self.entries = read_scalars(self.folder)
        if self.began is None and self.iteration:
            self.began = time.monotonic(), self.iteration

    @property
    def iteration(self) -> int:
        """Iterations that are logged."""
        logged = [entry['iter'] for entry in self.entries if 'iter' in entry]
        return self.epochs * self.per_epoch if self.ended else max(logged, default=0)

    @property
    def epoch(self) -> int:
        """Epochs that are trained and evaluated: the next one is logged."""
        return self.epochs if self.ended else max(0, self.iteration - 1) // self.per_epoch

    def seconds_left(self) -> float | None:
        """Seconds to go; None while it can't be estimated."""
        if self.ended:
            return 0.0
        if self.began is None or self.iteration <= self.began[1]:
            return None
        since, first = self.began
        pace = (time.monotonic() - since) / (self.iteration - first)
        return pace * (self.epochs * self.per_epoch - self.iteration)

    def cells(self, epoch: int | None = None) -> dict[str, str]:
        """What is shown of it, as text by name: the last values, or those of an epoch's end."""
        values = {}
        for entry in self.entries:
            if epoch is not None and entry.get('epoch', 0) > epoch:
                break
            values.update(entry)
        if 'WAU' not in self.training.cfg.optim_wrapper.type and self.iteration:
            values['active_fraction'] = 1.0
        return {
            label: number_text(values.get(name), decimals)
            for label, (name, decimals) in CELLS.items()
        }


class Screen:
    """Shows the trainings: a table that is renewed on a terminal, a line an epoch elsewhere."""

    def __init__(self, console: Console, trainings: Sequence[Training]):
        self.console = console
        self.parts = {one.arm: Progress(one) for one in trainings}
        live = Live(console=console, auto_refresh=False)
        self.live: Live | nullcontext[None] = live if console.is_terminal else nullcontext()
        self.epoch = min(part.epoch for part in self.parts.values())

    def wait(self) -> None:
        """Show how far the trainings are."""
        for part in self.parts.values():
            part.read()
        if isinstance(self.live, Live):
            self.live.update(self.table(), refresh=True)
            return
        epoch = min(part.epoch for part in self.parts.values())
        if epoch > self.epoch:
            self.epoch = epoch
            say(self.console, self.line())

    def end(self, record: TrainingRecord) -> None:
        """Take notice that a training ended."""
        self.parts[record.arm].ended = record.finished

    def table(self) -> Table:
        """The trainings, one a row."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column('')
        table.add_column('', width=18)
        for name in ('epoch', *CELLS, 'left'):
            table.add_column(name, justify='right', no_wrap=True)
        for arm, part in self.parts.items():
            bar = ProgressBar(part.epochs * part.per_epoch, part.iteration)
            epoch = f'{min(part.epoch + 1, part.epochs)}/{part.epochs}'
            table.add_row(arm, bar, epoch, *part.cells().values(), clock(part.seconds_left()))
        return table

    def line(self) -> str:
        """The trainings in one line."""
        parts = [
            f'{arm}: ' + ' '.join(map(' '.join, part.cells(self.epoch).items()))
            for arm, part in self.parts.items()
        ]
        left = [seconds for part in self.parts.values() if (seconds := part.seconds_left())]
        epochs = next(iter(self.parts.values())).epochs
        told = f'epoch {self.epoch:>2}/{epochs}  {"  ".join(parts)}'
        return f'{told}  {clock(max(left))} left' if len(left) == len(parts) else told


def clock(seconds: float | None) -> str:
    """Seconds as minutes and seconds; a dash where they are not known."""
    return NO_VALUE if seconds is None else f'{seconds // 60:.0f}:{seconds % 60:02.0f}'


def say(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is, paths unbroken."""
    console.print(line, highlight=False, soft_wrap=True, style=style)


def train(console: Console, trainings: Sequence[Training]) -> list[TrainingRecord]:
    """Train both arms at a time with the script that users train with; return their records."""
    done = find_records(trainings, WORK_DIR)
    missing = [one for one in trainings if one not in done]
    trainer = SuiteTrainer(WORK_DIR, jobs=2, threads=max(1, torch.get_num_threads() // 2))
    for training in trainings:
        folder = WORK_DIR / training.folder
        told = f'trained already; to train anew, remove {folder}'
        say(console, f'  {training.arm:<9} {told if training in done else folder / LOG}')
    if missing:
        by_arm = {one.arm: one for one in missing}
        screen = Screen(console, missing)

        def end(record: TrainingRecord) -> None:
            done[by_arm[record.arm]] = record
            screen.end(record)

        with screen.live:
            trainer.train(missing, end, screen.wait)
    return [done[one] for one in trainings]


def stop_if_failed(console: Console, trainings: Sequence[Training], records: Sequence) -> None:
    """End with the last lines of the log if a training did not come to a good end."""
    for training, record in zip(trainings, records, strict=True):
        if record.finished:
            continue
        log = WORK_DIR / training.folder / LOG
        for line in log.read_text(errors='replace').splitlines()[-LOG_LINES:]:
            say(console, f'  {line[:300]}')
        why = record.error.partition(' (whole output')[0] or 'its loss is no number'
        say(console, f'The training of {training.arm} {record.status}: {why}', style='red')
        say(console, f'These were the last lines of {log}')
        sys.exit(1)


def load_detectors(trainings: Sequence[Training]) -> dict[str, nn.Module]:
    """The trained detectors by arm, on the CPU."""
    # OpenMMLab's packages print and warn a lot.
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from mmdet.apis import init_detector

        found = {}
        for one in trainings:
            last = (WORK_DIR / one.folder / 'last_checkpoint').read_text().strip()
            found[one.arm] = init_detector(one.cfg, last, device='cpu')
        return found


def show_detections(model: nn.Module, picture: Path) -> None:
    """Draw the detections on the first held-out images beside what is annotated."""
    from mmdet.apis import inference_detector

    truth = load(DATA / 'annotations/instances_val.json')
    samples = []
    for image in truth['images'][:SHOWN_IMAGES]:
        path = str(DATA / 'val' / image['file_name'])
        found = inference_detector(model, path).pred_instances
        # Of boxes of several classes around one shape, the surest is drawn.
        best = nms(found.bboxes, found.scores, iou_threshold=0.5)
        boxes = [one['bbox'] for one in truth['annotations'] if one['image_id'] == image['id']]
        samples.append(
            {
                'image': mmcv.imread(path, channel_order='rgb'),
                'boxes': found.bboxes[best].tolist(),
                'labels': found.labels[best].tolist(),
                'scores': found.scores[best].tolist(),
                'truth': [(x, y, x + width, y + height) for x, y, width, height in boxes],
            }
        )
    plot_detections(samples, CLASSES, picture)


def show_overlap(models: Mapping[str, nn.Module], picture: Path) -> float:
    """Draw the overlap of each layer in both networks; return that of random filters."""
    overlaps = {}
    for arm, model in models.items():
        every = find_convolutions(model)
        layers = {name: every[name] for name in find_layers(model, DEFAULT_TARGETS)}
        overlaps[arm] = {name: layer_overlap(layer) for name, layer in layers.items()}
        random = {name: random_overlap(layer) for name, layer in layers.items()}
    plot_overlap(overlaps, random, picture)
    return mean_overlap(random)['overlap']


def compare(records: Sequence[TrainingRecord]) -> Table:
    """Baseline and WAU side by side."""
    images = len(load(DATA / 'annotations/instances_val.json')['images'])
    table = Table(title=f'On {images} images that training never saw', title_justify='left')
    table.add_column('')
    for record in records:
        table.add_column(record.arm, justify='right')
    for label, (name, decimals) in ROWS.items():
        values = (record.values.get(name) for record in records)
        table.add_row(label, *(number_text(value, decimals) for value in values))
    return table


def explain(baseline: TrainingRecord, wau: TrainingRecord, random: float) -> str:
    """What the numbers mean, in a sentence or two."""
    before, after = baseline.values[OVERLAP], wau.values[OVERLAP]
    told = (
        'With WAU only half of the filters move in each update. At the end they overlap '
        f"{'less' if after < before else 'more'}: {after:.4f}, the baseline's {before:.4f}, random "
        f'filters {random:.4f}. '
    )
    name = 'coco/bbox_mAP'
    silent = [record.arm for record in (baseline, wau) if name not in record.values]
    if silent:
        return told + f"AP can't be compared: {' and '.join(silent)} found nothing."
    gap = wau.values[name] - baseline.values[name]
    return told + (
        f"AP is {abs(gap):.3f} {'higher' if gap > 0 else 'lower'} than the baseline's, but this is "
        'one seed, and seeds differ by up to 0.05 (docs/analysis.md; docs/results.md has more). '
        f'All seeds of the demo: python tools/experiment.py {SUITE} --jobs 2'
    )


def main() -> None:
    """Run the demo from its data to its pictures."""
    os.chdir(ROOT)
    end_on_signals()
    console = text_console(width=100)
    say(console, f'Demo: a detector learns to find shapes in drawn images ({DATA})')
    if not DATA.exists():
        make_shapes(DATA, progress=False)
    suite = read_suite(SUITE)
    trainings = [one for one in suite.trainings if one.seed == suite.trainings[0].seed]
    say(console, 'Trained without WAU (the baseline) and with it, both at a time; the logs:')
    try:
        records = train(console, trainings)
    except KeyboardInterrupt:
        say(console, 'Stopped; the demo goes on from the last checkpoints when it is started again')
        sys.exit(130)
    stop_if_failed(console, trainings, records)
    torch.set_num_threads(1)
    models = load_detectors(trainings)
    detections, overlap = WORK_DIR / 'detections.png', WORK_DIR / 'overlap.png'
    *_, with_wau = models.values()
    show_detections(with_wau, detections)
    random = show_overlap(models, overlap)
    console.print(compare(records))
    baseline, wau = records
    console.print(explain(baseline, wau, random), highlight=False)
    say(console, f'What the detector with WAU finds: {detections}')
    say(console, f'Overlap of each layer:            {overlap}')


if __name__ == '__main__':
    # Without options; --help tells what the demo does, and starts nothing.
    argparse.ArgumentParser(description=__doc__).parse_args()
    run_script(main)
