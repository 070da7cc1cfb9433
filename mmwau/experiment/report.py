"""What came out of a suite: tables, warnings, pictures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmwau.engine.overlap_hook import MOVEMENTS
from mmwau.reporting.labels import name_some
from mmwau.reporting.page import Table
from mmwau.reporting.plots import COLOURS, MARKERS, legend_above, tidy
from mmwau.runs.arms import Summary, difference, half_width, summarise
from mmwau.runs.metrics import is_measured, is_number
from mmwau.runs.report import MINUS, NO_BREAK, NO_VALUE

from .equal_terms import at_equal_loss, at_equal_movement, interpolate
from .record import Record
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
    'does not measure speed.',
    'At equal training loss, path length or displacement: the difference in overlap at the point '
    'where each of the two first reached the training loss (path length, displacement) that both '
    'reached. Overlap grows as training goes on; a difference that vanishes here came from how far '
    'training had got.',
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The arms of one setting, with what came out.

    Args:
        name: Its name.
        number: Its place in the suite, from 1.
        metric: Name of the metric.
        other_metrics: Names of metrics that are shown beside it.
        arms: For each arm its finished records; the first arm is the baseline.
        planned: For each arm how many trainings the suite has.
    """

    name: str
    number: int
    metric: str
    other_metrics: Sequence[str]
    arms: Mapping[str, Sequence[Record]]
    planned: Mapping[str, int]

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return next(iter(self.arms))

    def values(self, arm: str, name: str) -> list[tuple[int, float]]:
        """Seed and final value of each finished training of an arm that has one."""
        name = self.metric if name == 'metric' else name
        found = [(record.seed, record.values.get(name)) for record in self.arms[arm]]
        return [(seed, value) for seed, value in found if self._counts(name, value)]

    def _counts(self, name: str, value: float | None) -> bool:
        # Records of earlier versions have what is no measurement too.
        is_metric = name in (self.metric, *self.other_metrics, 'metric')
        return is_measured(value) if is_metric else is_number(value)

    def mean(self, arm: str, name: str) -> Summary | None:
        """Mean and spread of a final value; None if there is none."""
        values = [value for _, value in self.values(arm, name)]
        return summarise(values) if values else None

    def gap(self, arm: str, name: str) -> Summary | None:
        """Difference of a final value to the baseline, paired by seed; None if there is no pair."""
        return _paired(self.values(arm, name), self.values(self.baseline, name))

    def pairs(self, arm: str) -> list[tuple[Record, Record]]:
        """Records of an arm, each with that of the baseline with the same seed."""
        theirs = {record.seed: record for record in self.arms[self.baseline]}
        return [(record, theirs[record.seed]) for record in self.arms[arm] if record.seed in theirs]

    def gap_at(
        self, arm: str, compare: Callable[[Record, Record], tuple[float, float] | None]
    ) -> Summary | None:
        """Difference of the overlap to the baseline at a point of equal terms."""
        found = [compare(*pair) for pair in self.pairs(arm)]
        gaps = [both[0] - both[1] for both in found if both is not None]
        return summarise(gaps) if gaps else None

    def time(self, arm: str) -> float | None:
        """Training time relative to the baseline, median over pairs; None if not known."""
        ratios = [
            ours.seconds / theirs.seconds
            for ours, theirs in self.pairs(arm) if ours.seconds and theirs.seconds
        ]  # fmt: skip
        return median(ratios) if ratios else None

    @property
    def decimals(self) -> int:
        """Decimals that the metric is shown with: of a percentage 2, of a fraction 3."""
        values = [value for arm in self.arms for _, value in self.values(arm, 'metric')]
        return 2 if values and max(map(abs, values)) > 1 else 3

    def tables(self) -> list[Table]:
        """What came out, and the overlap beside the baseline's where there are other arms."""
        return [self.table(), *([self.overlap_table()] if len(self.arms) > 1 else [])]

    def table(self) -> Table:
        """What came out."""
        rows = []
        for arm, records in self.arms.items():
            time = self.time(arm)
            rows.append([
                arm,
                f'{len(records)} of {self.planned[arm]}'.replace(' ', NO_BREAK),
                _mean(self.mean(arm, 'metric'), self.decimals),
                self._gap(self.gap(arm, 'metric'), arm, self.decimals),
                *(_mean(self.mean(arm, name), self.decimals) for name in self.other_metrics),
                _mean(self.mean(arm, 'loss'), 3),
                _mean(self.mean(arm, 'overlap'), 4),
                _mean(self.mean(arm, 'path_length'), 2),
                _mean(self.mean(arm, 'displacement'), 3),
                NO_VALUE if time is None else f'{time:.2f}',
            ])  # fmt: skip
        columns = ['arm', 'runs', self.metric, 'Gap (95 % interval)', *self.other_metrics,
                   'training loss', 'overlap', 'path length', 'displacement', 'time']  # fmt: skip
        return Table(self.name, columns, rows)

    def overlap_table(self) -> Table:
        """The overlap beside the baseline's, on four sorts of equal terms."""
        rows = [
            [
                arm,
                self._gap(self.gap(arm, 'overlap'), arm, 4),
                self._gap(self.gap_at(arm, at_equal_loss), arm, 4),
                self._gap(self.gap_at(arm, at_equal_movement), arm, 4),
                self._gap(self.gap_at(arm, at_equal_displacement), arm, 4),
            ]
            for arm in self.arms if arm != self.baseline
        ]  # fmt: skip
        columns = ['arm', 'at the end', 'at equal training loss', 'at equal path length',
                   'at equal displacement']  # fmt: skip
        title = f'{self.name}: overlap, difference to {self.baseline} (95 % interval)'
        return Table(title, columns, rows)

    def _gap(self, found: Summary | None, arm: str, decimals: int) -> str:
        if found is None or arm == self.baseline:
            return NO_VALUE
        half = half_width(found)
        text = _number(found.mean, decimals, '+')
        if half is None:
            return text
        low, high = (_number(found.mean + sign * half, decimals, '+') for sign in (-1, 1))
        return f'{text} ({low}, {high})'.replace(' ', NO_BREAK)

    def draw_curves(self) -> Figure:
        """Metric, loss and overlap as training goes on, and the overlap along the others."""
        figure = Figure(figsize=(16, 8.4), layout='constrained')
        panels = figure.subplots(2, 3).ravel()
        drawn = [
            ('metric', None), ('loss', None), ('overlap', None), ('overlap', 'loss'),
            ('overlap', 'path_length'), ('overlap', 'displacement'),
        ]  # fmt: skip
        for index, arm in enumerate(self.arms):
            look = dict(
                label=arm, color=COLOURS[index % len(COLOURS)],
                linestyle='-' if index < len(COLOURS) else '--', marker=MARKERS[index % 8],
                markersize=5, markerfacecolor='white', linewidth=1.6,
            )  # fmt: skip
            for axes, (name, along) in zip(panels, drawn, strict=True):
                self._draw(axes, arm, name, along, look)
        texts = dict(
            metric=self.metric, loss='training loss', overlap='filter overlap',
            path_length='path length of filters (radians)',
            displacement='displacement of filters from the start (radians)',
        )  # fmt: skip
        for axes, (name, along) in zip(panels, drawn, strict=True):
            axes.set_xlabel('iterations' if along is None else texts[along])
            axes.set_ylabel(texts[name])
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
            tidy(axes)
        panels[3].invert_xaxis()
        panels[0].set_title(self.name, fontsize=10, loc='left')
        legend_above(figure, max(panels, key=lambda axes: len(axes.get_lines())))
        return figure

    def _draw(self, axes: Axes, arm: str, name: str, along: str | None, look: dict) -> None:
        """Draw a curve, mean over seeds, over the iterations or along another curve."""
        records = [
            record for record in self.arms[arm]
            if record.curves.get(name) and (along is None or record.curves.get(along))
        ]  # fmt: skip
        if not records:
            return
        values = [
            {step: value for step, value in record.curves[name] if self._counts(name, value)}
            for record in records
        ]
        steps = sorted(set.intersection(*map(set, values)))
        if along == 'loss':  # before the first epoch ended there is none
            steps = [step for step in steps if step >= records[0].curves['loss'][0][0]]
        means = [fmean(curve[step] for curve in values) for step in steps]
        where = steps
        if along is not None:
            curves = [self._from_start(record, along) for record in records]
            where = [fmean(interpolate(curve, step) for curve in curves) for step in steps]
        every = max(1, len(steps) // 8)
        axes.plot(where, means, markevery=every, **look)

    @staticmethod
    def _from_start(record: Record, name: str) -> Sequence[tuple[float, float]]:
        """A curve with the start of training, where nothing has moved yet."""
        start = [(0.0, 0.0)] if name in MOVEMENTS else []
        return [*start, *record.curves[name]]


@dataclass(frozen=True)
class Report:
    """A suite with what came out of it so far.

    Args:
        suite: The suite.
        records: The outcome of each training that ended.
        others: Records of earlier settings, which do not count.
    """

    suite: Suite
    records: Mapping[Training, Record]
    others: Sequence[Record] = ()

    @property
    def settings(self) -> list[Setting]:
        """The settings that have a finished training, in the suite's order."""
        found = []
        for number, (name, arms) in enumerate(self.suite.settings.items(), start=1):
            trainings = [one for one in self.suite.trainings if one.setting == name]
            ended = {arm: self._finished(trainings, arm) for arm in arms}
            planned = {arm: sum(one.arm == arm for one in trainings) for arm in arms}
            if any(ended.values()):
                metrics = self.suite.metric, self.suite.other_metrics
                found.append(Setting(name, number, *metrics, ended, planned))
        return found

    def _finished(self, trainings: Sequence[Training], arm: str) -> list[Record]:
        records = [self.records.get(one) for one in trainings if one.arm == arm]
        return [record for record in records if record is not None and record.finished]

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
            names = [f'{one.setting} / {one.arm} / seed {one.seed}' for one in self.others]
            found.append(
                f'{len(names)} results do not count, since the suite or a config was changed '
                f'since: {name_some(names, 3)}. They are kept until trained again'
            )
        for setting in self.settings:
            found += _seed_warnings(setting)
        return found

    def _missing(self, training: Training, record: Record) -> list[str]:
        """Sentences on metrics that a finished training lacks."""
        values = record.values
        wanted = dict.fromkeys((self.suite.metric, *self.suite.other_metrics))
        names = [name for name in wanted if not is_measured(values.get(name))]
        if not names:
            return []
        measured = [name for name, value in values.items() if is_measured(value)]
        others = [name for name in measured if '/' in name] or measured
        return [
            f'{training.name} has no {", ".join(names)} and is left out of its mean; it has '
            f'{", ".join(others)}. (Where nothing is detected there is no AP, and what is nan, or '
            f"-1, COCO's mark for nothing to count, is no measurement)"
        ]

    def to_markdown(self, command: str, pictures: Sequence[str]) -> str:
        """Everything as a Markdown page.

        Args:
            command: The command that made it.
            pictures: File names of its pictures, beside the page.
        """
        parts = [f'# {self.suite.title}\n', f'```bash\n{command}\n```\n']
        for setting in self.settings:
            parts += [table.to_markdown() for table in setting.tables()]
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
        settings = [
            setting for setting in self.settings
            if any(setting.gap(arm, 'metric') for arm in setting.arms if arm != setting.baseline)
        ]  # fmt: skip
        if not settings:
            return None
        heights = [max(1, len(setting.arms) - 1) for setting in settings]
        figure = Figure(figsize=(9, 0.42 * sum(heights) + 1.1 * len(heights)), layout='constrained')
        grid = figure.subplots(len(settings), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, setting in zip(grid, settings, strict=True):
            arms = [arm for arm in setting.arms if arm != setting.baseline]
            for row, arm in enumerate(arms):
                self._draw_gap(axes, setting, arm, row)
            axes.axvline(0, color='#707070', linewidth=1, zorder=1)
            axes.set_yticks(range(len(arms)), arms, fontsize=8)
            axes.set_ylim(len(arms) - 0.5, -0.5)
            axes.set_title(setting.name, fontsize=10, loc='left')
            tidy(axes)
            axes.grid(visible=False, axis='y')
        baseline = settings[-1].baseline
        grid[-1].set_xlabel(
            f'{self.suite.metric}: arm {MINUS} {baseline} (points: pairs of one seed; line: mean '
            'with its 95 % interval)',
            fontsize=9,
        )
        return figure

    @staticmethod
    def _draw_gap(axes: Axes, setting: Setting, arm: str, row: int) -> None:
        found = setting.gap(arm, 'metric')
        if found is None:
            return
        theirs = dict(setting.values(setting.baseline, 'metric'))
        pairs = [
            value - theirs[seed] for seed, value in setting.values(arm, 'metric') if seed in theirs
        ]
        half = half_width(found)
        if half is not None:
            axes.hlines(
                row, found.mean - half, found.mean + half, color=COLOURS[1], linewidth=2, zorder=2
            )
        axes.plot(found.mean, row, marker='|', markersize=14, color=COLOURS[1], zorder=3)
        axes.scatter(pairs, [row] * len(pairs), s=16, color=COLOURS[2], zorder=4)


def _seed_warnings(setting: Setting) -> list[str]:
    """What so few seeds can't show."""
    gaps = {arm: setting.gap(arm, 'metric') for arm in setting.arms if arm != setting.baseline}
    gaps = {arm: gap for arm, gap in gaps.items() if gap is not None}
    found = []
    if len(setting.arms) > 1 and not setting.arms[setting.baseline]:
        found.append(
            f'{setting.name}: no training of {setting.baseline} is finished: there are no gaps'
        )
    single = [arm for arm, gap in gaps.items() if gap.count == 1]
    if single:
        found.append(
            f'{setting.name}: one pair of runs says nothing about chance '
            f'({"; ".join(single)}); train more seeds'
        )
    spread = {arm: (gap, half_width(gap)) for arm, gap in gaps.items() if gap.count > 1}
    unclear = [half for gap, half in spread.values() if abs(gap.mean) <= half]
    if unclear:
        found.append(
            f'{setting.name}: {len(unclear)} of {len(spread)} gaps cannot be distinguished from 0; '
            f'only gaps above about {_number(median(unclear), setting.decimals)} could be'
        )
    few = [f'{arm} ({gap.count})' for arm, (gap, _) in spread.items() if gap.count < FEW_SEEDS]
    if few:
        found.append(f'{setting.name}: too few seeds to show any but huge gaps: {"; ".join(few)}')
    return found


def at_equal_displacement(record: Record, baseline: Record) -> tuple[float, float] | None:
    """See :func:`mmwau.experiment.equal_terms.at_equal_movement`."""
    return at_equal_movement(record, baseline, 'displacement')


def _paired(
    values: Sequence[tuple[int, float]], baseline: Sequence[tuple[int, float]]
) -> Summary | None:
    if not values or not baseline:
        return None
    found = difference(values, baseline)
    return found if found.paired else None


def _mean(found: Summary | None, decimals: int) -> str:
    if found is None:
        return NO_VALUE
    spread = '' if found.std is None else f'{NO_BREAK}±{NO_BREAK}{_number(found.std, decimals)}'
    return f'{_number(found.mean, decimals)}{spread}'


def _number(value: float, decimals: int, sign: str = '') -> str:
    if not math.isfinite(value):
        return NO_VALUE
    return f'{value:{sign}.{decimals}f}'.replace('-', MINUS)
