"""The arms of one setting: tables and curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmwau.engine.overlap_hook import MOVEMENTS
from mmwau.reporting.numbers import NO_BREAK, NO_VALUE, mean_text, number_text
from mmwau.reporting.page import Table
from mmwau.reporting.plots import COLOURS, legend_above, styles, tidy
from mmwau.reporting.statistics import Summary, difference, half_width, mean_curve, summarise
from mmwau.runs.metrics import is_measured, is_number

from .equal_terms import at_equal_loss, at_equal_movement, first_reach, interpolate
from .record import TrainingRecord

# Columns with a mean: heading, name of the value, decimals.
COLUMNS = (
    ('training loss', 'loss', 3),
    ('overlap', 'overlap', 4),
    ('path length', 'path_length', 2),
    ('displacement', 'displacement', 3),
)
# From so many measurements of the metric on it is of use when one was reached. (A metric that falls
# is one of which less is better: it is reached at once.)
FOLLOWED = 5
EQUAL_TERMS: dict[str, Callable[[TrainingRecord, TrainingRecord], tuple[float, float] | None]] = {
    'at equal training loss': at_equal_loss,
    'at equal path length': at_equal_movement,
    'at equal displacement': partial(at_equal_movement, name='displacement'),
}


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
    arms: Mapping[str, Sequence[TrainingRecord]]
    planned: Mapping[str, int]

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return next(iter(self.arms))

    @property
    def others(self) -> list[str]:
        """The arms that are compared with it."""
        return [arm for arm in self.arms if arm != self.baseline]

    def values(self, arm: str, name: str) -> list[tuple[int, float]]:
        """Seed and final value of each finished training of an arm that has one."""
        name = self.metric if name == 'metric' else name
        found = [(record.seed, record.values.get(name)) for record in self.arms[arm]]
        return [
            (seed, value)
            for seed, value in found
            if value is not None and self._counts(name, value)
        ]

    def _counts(self, name: str, value: float) -> bool:
        # Records of earlier versions have what is no measurement too.
        is_metric = name in (self.metric, *self.other_metrics, 'metric')
        return is_measured(value) if is_metric else is_number(value)

    def mean(self, arm: str, name: str) -> Summary | None:
        """Mean and spread of a final value; None if there is none."""
        return summarise([value for _, value in self.values(arm, name)])

    def gap(self, arm: str, name: str) -> Summary | None:
        """Difference of a final value to the baseline, paired by seed; None if there is no pair."""
        found = difference(self.values(arm, name), self.values(self.baseline, name))
        return found if found is not None and found.paired else None

    def gaps(self) -> dict[str, Summary]:
        """The gap of the metric by arm, where there is one."""
        found = {arm: self.gap(arm, 'metric') for arm in self.others}
        return {arm: gap for arm, gap in found.items() if gap is not None}

    def differences(self, arm: str) -> list[float]:
        """The gap of the metric in each pair of runs with the same seed."""
        theirs = dict(self.values(self.baseline, 'metric'))
        values = self.values(arm, 'metric')
        return [value - theirs[seed] for seed, value in values if seed in theirs]

    def pairs(self, arm: str) -> list[tuple[TrainingRecord, TrainingRecord]]:
        """Records of an arm, each with that of the baseline with the same seed."""
        theirs = {record.seed: record for record in self.arms[self.baseline]}
        return [(record, theirs[record.seed]) for record in self.arms[arm] if record.seed in theirs]

    def gap_at(
        self,
        arm: str,
        compare: Callable[[TrainingRecord, TrainingRecord], tuple[float, float] | None],
    ) -> Summary | None:
        """Difference of the overlap to the baseline at a point of equal terms."""
        found = [compare(*pair) for pair in self.pairs(arm)]
        return summarise([both[0] - both[1] for both in found if both is not None])

    def time(self, arm: str) -> float | None:
        """Training time relative to the baseline, median over pairs; None if not known."""
        ratios = [
            ours.seconds / theirs.seconds
            for ours, theirs in self.pairs(arm)
            if ours.seconds and theirs.seconds
        ]
        return median(ratios) if ratios else None

    def times_to_baseline(self, arm: str) -> list[float | None]:
        """Training time until an arm first has the metric that the baseline ends with.

        Returns:
            For each pair whose times are known the time relative to the baseline's whole training;
            None where the arm does not come to that metric.
        """
        times: list[float | None] = []
        for ours, theirs in self.pairs(arm):
            level = theirs.values.get(self.metric)
            curve = [point for point in ours.curves.get('metric', []) if is_number(point[1])]
            if level is None or not (ours.seconds and theirs.seconds):
                continue
            if any(value >= level for _, value in curve):
                share = first_reach(curve, level) / ours.iterations
                times.append(share * ours.seconds / theirs.seconds)
            else:
                times.append(None)
        return times

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
        shown = [*((name, name, self.decimals) for name in self.other_metrics), *COLUMNS]
        curves = [one.curves.get('metric', []) for one in self.arms[self.baseline]]
        is_followed = bool(curves) and all(
            len(curve) >= FOLLOWED and curve[-1][1] > curve[0][1] for curve in curves
        )
        rows = []
        for arm, records in self.arms.items():
            runs = f'{len(records)} of {self.planned[arm]}'.replace(' ', NO_BREAK)
            metric = mean_text(self.mean(arm, 'metric'), self.decimals)
            gap = gap_text(self.gaps().get(arm), self.decimals)
            means = [mean_text(self.mean(arm, name), digits) for _, name, digits in shown]
            rows.append([arm, runs, metric, gap, *means, number_text(self.time(arm), 2)])
            if is_followed:
                times = self.times_to_baseline(arm)
                reached = [time for time in times if time is not None]
                time = number_text(median(reached) if reached else None, 2)
                rows[-1].append(f'{time} ({len(reached)}/{len(times)})'.replace(' ', NO_BREAK))
        headings = [heading for heading, *_ in shown]
        columns = ['arm', 'runs', self.metric, 'Gap (95 % interval)', *headings, 'time']
        if is_followed:
            columns.append("time to baseline's metric")
        return Table(self.name, columns, rows)

    def overlap_table(self) -> Table:
        """The overlap beside the baseline's, on four sorts of equal terms."""
        rows = []
        for arm in self.others:
            gaps = [self.gap(arm, 'overlap')]
            gaps += [self.gap_at(arm, compare) for compare in EQUAL_TERMS.values()]
            rows.append([arm, *(gap_text(gap, 4) for gap in gaps)])
        columns = ['arm', 'at the end', *EQUAL_TERMS]
        title = f'{self.name}: overlap, difference to {self.baseline} (95 % interval)'
        return Table(title, columns, rows)

    def draw_curves(self) -> Figure:
        """Metric, loss and overlap as training goes on, and the overlap along the others."""
        figure = Figure(figsize=(16, 8.4), layout='constrained')
        panels = figure.subplots(2, 3).ravel()
        drawn: list[tuple[str, str | None]] = [
            (name, None) for name in ('metric', 'loss', 'overlap')
        ]
        drawn += [('overlap', along) for along in ('loss', *MOVEMENTS)]
        for index, (arm, style) in enumerate(styles(self.arms).items()):
            dashes = '-' if index < len(COLOURS) else '--'
            look: dict = dict(style, label=arm, linestyle=dashes, linewidth=1.6)
            look |= dict(markersize=5, markerfacecolor='white')
            for axes, (name, along) in zip(panels, drawn, strict=True):
                self._draw(axes, arm, name, along, look)
        texts = dict(
            metric=self.metric,
            loss='training loss',
            overlap='filter overlap',
            path_length='path length of filters (radians)',
            displacement='displacement of filters from the start (radians)',
        )
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
            record
            for record in self.arms[arm]
            if record.curves.get(name) and (along is None or record.curves.get(along))
        ]
        if not records:
            return
        values = [
            {step: value for step, value in record.curves[name] if self._counts(name, value)}
            for record in records
        ]
        means = mean_curve(values)
        if along == 'loss':  # before the first epoch ended there is none
            first = records[0].curves['loss'][0][0]
            means = {step: mean for step, mean in means.items() if step >= first}
        where = list(means)
        if along is not None:
            # At the start of training nothing has moved yet.
            start = [(0.0, 0.0)] if along in MOVEMENTS else []
            curves = [[*start, *record.curves[along]] for record in records]
            where = [fmean(interpolate(curve, step) for curve in curves) for step in means]
        axes.plot(where, list(means.values()), markevery=max(1, len(means) // 8), **look)


def gap_text(found: Summary | None, decimals: int) -> str:
    """A gap with its 95 % interval, if it has one, and a dash for none."""
    if found is None:
        return NO_VALUE
    half = half_width(found)
    text = number_text(found.mean, decimals, '+')
    if half is None:
        return text
    low, high = (number_text(found.mean + sign * half, decimals, '+') for sign in (-1, 1))
    return f'{text} ({low}, {high})'.replace(' ', NO_BREAK)
