"""What came out of a suite: tables, warnings, pictures."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmwau.reporting.curves import FEW_POINTS, MOST_LINES
from mmwau.reporting.labels import metric_label, name_some
from mmwau.reporting.numbers import MINUS, number_text
from mmwau.reporting.page import Table
from mmwau.reporting.plots import COLOURS, tidy
from mmwau.reporting.statistics import Summary, half_width
from mmwau.runs.metrics import is_measured

from .over_settings import over_settings
from .record import TrainingRecord
from .setting import Setting
from .suite import Suite, Training

# From so many pairs on an interval is narrow enough to be of use.
FEW_SEEDS = 3
HOW_TO_READ = (
    'Mean ± sample standard deviation over the seeds. A gap or difference is the arm minus the '
    'baseline (the first row), paired by seed; behind it in brackets its 95 % interval '
    "(Student's t over the pairs). An interval that contains 0 means that these runs do not show a "
    'difference; about one interval in twenty misses the true value by chance.',
    'Training loss: mean of the last epoch. Overlap: mean |cosine| between the filters of a layer, '
    'mean over layers. Path length: the sum over updates of the angle in radians between a filter '
    'before and after. Displacement: the angle between a filter and itself at the start. Time: '
    'relative to the baseline with the same seed, median over seeds; without a GPU, the processor '
    'time of the whole process. Trainings that run side by side slow one another down, so this '
    "does not measure speed. Time to baseline's metric: when a training first had the metric that "
    'the baseline with the same seed ends with, relative to all of its time; median over those '
    'that reach it, with their number.',
    'At equal training loss, path length or displacement: the difference in overlap at the point '
    'where each of the two first reached the training loss (path length, displacement) that both '
    'reached. Overlap grows as training goes on; a difference that vanishes here came from how far '
    'training had got.',
    'Over all settings: the mean of the settings, and the gap over all pairs of a setting and a '
    'seed. p: paired t test, two-sided; corrected by Holm for the number of arms beside it. It '
    'speaks of these settings, not of others.',
    'Pictures: upper row, the mean over the seeds with a band, or bars, of ± their sample standard '
    f'deviation; a curve with fewer than {FEW_POINTS} points is shown as these points, those of '
    'the arms side by side. Lower row, the mean over the seeds. With more than '
    f'{MOST_LINES} arms there are more panels, each with the baseline.',
)


@dataclass(frozen=True)
class SuiteReport:
    """A suite with what came out of it so far.

    Args:
        suite: The suite.
        records: The outcome of each training that ended.
        others: Records of earlier settings, which do not count.
    """

    suite: Suite
    records: Mapping[Training, TrainingRecord]
    others: Sequence[TrainingRecord] = ()

    @property
    def settings(self) -> list[Setting]:
        """The settings that have a finished training, in the suite's order."""
        found = []
        for number, (name, arms) in enumerate(self.suite.settings.items(), start=1):
            trainings = [one for one in self.suite.trainings if one.setting == name]
            ended: dict[str, list[TrainingRecord]] = {arm: [] for arm in arms}
            for one in trainings:
                if one in self.records and self.records[one].finished:
                    ended[one.arm].append(self.records[one])
            planned = Counter(one.arm for one in trainings)
            if any(ended.values()):
                metrics = self.suite.metric, self.suite.other_metrics
                found.append(Setting(name, number, *metrics, ended, planned))
        return found

    def warnings(self) -> list[str]:
        """Sentences on what is missing, went wrong, or can't be concluded."""
        found = []
        for training in self.suite.trainings:
            record = self.records.get(training)
            if record is not None and record.status == 'diverged':
                found.append(f'{training.name} diverged and is left out of the means')
            elif record is not None and record.status == 'failed':
                found.append(f'{training.name} failed and is left out: {record.error}')
            elif record is not None:
                found += self._missing(training, record)
            if record is not None and record.starts > 1:
                found.append(
                    f'{training.name} was trained in {record.starts} parts; after a break random '
                    'augmentations are others than without one'
                )
        missing = [one.name for one in self.suite.trainings if one not in self.records]
        if missing:
            found.append(
                f'{len(missing)} of {len(self.suite.trainings)} trainings are not done: '
                f'{name_some(missing, 3)}'
            )
        if self.others:
            names = [one.name for one in self.others]
            found.append(
                f'{len(names)} results do not count, since the suite or a config was changed '
                f'since: {name_some(names, 3)}. They are kept until trained again'
            )
        for setting in self.settings:
            found += _start_warnings(setting) + _seed_warnings(setting)
        return found

    def _missing(self, training: Training, record: TrainingRecord) -> list[str]:
        """Sentences on metrics that a finished training lacks."""
        values = record.values
        wanted = dict.fromkeys((self.suite.metric, *self.suite.other_metrics))
        names = [name for name in wanted if not is_measured(values.get(name))]
        if not names:
            if 'metric' not in record.curves or record.curve(self.suite.metric):
                return []
            return [
                f'{training.name} has no curve of {self.suite.metric}: the version of mmwau that '
                'trained it kept that of another metric'
            ]
        measured = [name for name, value in values.items() if is_measured(value)]
        others = [name for name in measured if '/' in name] or measured
        return [
            f'{training.name} has no {", ".join(names)} and is left out of its mean; it has '
            f'{", ".join(others)}. (Where nothing is detected there is no AP, and what is nan, or '
            f"-1, COCO's mark for nothing to count, is no measurement)"
        ]

    def tables(self) -> list[Table]:
        """What came out: over all settings together, then of each."""
        whole = over_settings(self.settings)
        each = [table for setting in self.settings for table in setting.tables()]
        return each if whole is None else [whole, *each]

    def to_markdown(self, command: str, pictures: Sequence[str]) -> str:
        """Everything as a Markdown page.

        Args:
            command: The command that made it.
            pictures: File names of its pictures, beside the page.
        """
        parts = [f'# {self.suite.title}\n', f'```bash\n{command}\n```\n']
        parts += [table.to_markdown() for table in self.tables()]
        warnings = self.warnings()
        if warnings:
            parts += ['## Warnings\n', ''.join(f'- {warning}\n' for warning in warnings)]
        parts += [f'![{name}]({name})\n' for name in pictures]
        parts += ['## How to read this\n', *(f'{text}\n' for text in HOW_TO_READ)]
        return '\n'.join(parts)

    def draw_gaps(self) -> Figure | None:
        """The gap of the metric to the baseline of each arm, with interval and single pairs.

        Returns:
            The picture; None if there is no gap.
        """
        settings = [setting for setting in self.settings if setting.gaps()]
        if not settings:
            return None
        heights = [len(setting.others) for setting in settings]
        figure = Figure(figsize=(9, 0.42 * sum(heights) + 1.1 * len(heights)), layout='constrained')
        shared: dict = dict(sharex=True, squeeze=False, height_ratios=heights)
        grid = figure.subplots(len(settings), 1, **shared)[:, 0]
        baselines = {setting.baseline for setting in settings}
        differ = len(baselines) > 1
        for axes, setting in zip(grid, settings, strict=True):
            arms = setting.others
            for arm, gap in setting.gaps().items():
                self._draw_gap(axes, setting, arm, gap, arms.index(arm))
            axes.axvline(0, color='#707070', linewidth=1, zorder=1)
            axes.set_yticks(range(len(arms)), arms, fontsize=9)
            axes.set_ylim(len(arms) - 0.5, -0.5)
            title = f'{setting.name} (baseline: {setting.baseline})' if differ else setting.name
            axes.set_title(title, fontsize=10, loc='left')
            axes.tick_params(labelbottom=True)
            tidy(axes)
            axes.grid(visible=False, axis='y')
        baseline = 'its baseline' if differ else settings[-1].baseline
        grid[-1].set_xlabel(
            f'{metric_label(self.suite.metric)}: arm {MINUS} {baseline}\n'
            '(points: pairs of one seed; tick: their mean; line: 95 % interval)',
            fontsize=9,
        )
        return figure

    @staticmethod
    def _draw_gap(axes: Axes, setting: Setting, arm: str, found: Summary, row: int) -> None:
        pairs = setting.differences(arm)
        half = half_width(found)
        if half is not None:
            ends = found.mean - half, found.mean + half
            axes.hlines(row, *ends, color=COLOURS[1], linewidth=2, zorder=2)
        mark: dict = dict(marker='|', markersize=16, markeredgewidth=2.5, zorder=3)
        axes.plot(found.mean, row, color=COLOURS[1], **mark)
        axes.scatter(pairs, [row] * len(pairs), s=16, color=COLOURS[2], zorder=4)


def _start_warnings(setting: Setting) -> list[str]:
    """Whether overlaps are those of the same layers, as far as the start of training shows."""
    others = []
    for arm in setting.others:
        for pair in setting.pairs(arm):
            starts = [value for one in pair for at, value in one.curve('overlap')[:1] if at == 0]
            if len(starts) == 2 and not math.isclose(*starts, rel_tol=1e-3):
                others.append(arm)
                break
    if not others:
        return []
    return [
        f'{setting.name}: with the same seed the overlap at the start is not that of '
        f'{setting.baseline} ({"; ".join(others)}): it is measured in other layers, or training '
        'begins with other weights'
    ]


def _seed_warnings(setting: Setting) -> list[str]:
    """What so few seeds can't show."""
    gaps, found = setting.gaps(), []
    if setting.others and not setting.arms[setting.baseline]:
        found.append(
            f'{setting.name}: no training of {setting.baseline} is finished: there are no gaps'
        )
    single = [arm for arm, gap in gaps.items() if gap.count == 1]
    if single:
        found.append(
            f'{setting.name}: one pair of runs says nothing about chance '
            f'({"; ".join(single)}); train more seeds'
        )
    spread = {
        arm: (gap, half) for arm, gap in gaps.items() if (half := half_width(gap)) is not None
    }
    unclear = [half for gap, half in spread.values() if abs(gap.mean) <= half]
    if unclear:
        found.append(
            f'{setting.name}: {len(unclear)} of {len(spread)} gaps cannot be distinguished from 0; '
            f'only gaps above about {number_text(median(unclear), setting.decimals)} could be'
        )
    few = [f'{arm} ({gap.count})' for arm, (gap, _) in spread.items() if gap.count < FEW_SEEDS]
    if few:
        found.append(f'{setting.name}: too few seeds to show any but huge gaps: {"; ".join(few)}')
    return found
