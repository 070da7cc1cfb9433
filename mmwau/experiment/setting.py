"""The arms of one setting: tables and curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from statistics import fmean, median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmwau.engine.overlap_hook import MOVEMENTS
from mmwau.reporting.curves import MARKERS_OF_A_LINE, NOTE, OVERLAP, draw_means, in_panels
from mmwau.reporting.labels import metric_label
from mmwau.reporting.numbers import NO_BREAK, gap_text, mean_text, number_text
from mmwau.reporting.page import Table
from mmwau.reporting.plots import legend_above, styles, tidy
from mmwau.reporting.statistics import Summary, difference, summarise, summarise_curves
from mmwau.runs.metrics import is_measured, is_number

from .equal_terms import at_equal_loss, at_equal_movement, first_reach, interpolate
from .record import Curve, TrainingRecord

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
ALONG = dict(
    loss='training loss, lowest so far',
    path_length='path length of filters (radians)',
    displacement='displacement from the start (radians)',
)
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
            For each pair whose times and curve are known the time relative to the baseline's whole
            training; None where the arm does not come to that metric.
        """
        times: list[float | None] = []
        for ours, theirs in self.pairs(arm):
            level = theirs.values.get(self.metric)
            curve = self._curve(ours, self.metric)
            if level is None or not self._counts(self.metric, level):
                continue
            if not (curve and ours.seconds and theirs.seconds):
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
        curves = [self._curve(one, self.metric) for one in self.arms[self.baseline]]
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
        """Metric, loss and overlap as training goes on, and the overlap along the others.

        Of many arms some stand in panels of their own, beside the baseline.
        """
        groups = in_panels(list(self.arms))
        figure = Figure(figsize=(12, 7 * len(groups)), layout='constrained')
        parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
        for number, (part, arms) in enumerate(zip(parts, groups, strict=True), start=1):
            panels = part.subplots(2, 3).ravel()
            self._draw_over_time(panels[:3], arms)
            for axes, along in zip(panels[3:], ('loss', *MOVEMENTS), strict=True):
                self._draw_overlap_along(axes, arms, along)
                if not axes.get_lines():  # how far filters moved was not measured
                    axes.set_axis_off()
            of = f' ({number} of {len(groups)})' if len(groups) > 1 else ''
            most = max(panels[::-1], key=lambda axes: len(axes.get_lines()))
            legend_above(part, most, self.name + of)
        return figure

    def _draw_over_time(self, panels: Sequence[Axes], arms: Sequence[str]) -> None:
        """Draw metric, loss and overlap over the iterations."""
        names = {self.metric: metric_label(self.metric), 'loss': 'training loss'}
        names['overlap'] = OVERLAP
        for axes, (name, label) in zip(panels, names.items(), strict=True):
            curves = {
                arm: [dict(self._curve(record, name)) for record in self.arms[arm]] for arm in arms
            }
            if axes is not panels[0]:
                axes.sharex(panels[0])
            axes.set_title(draw_means(axes, curves), **NOTE)
            axes.set_xlabel('iterations')
            axes.set_ylabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
            tidy(axes)
        panels[0].set_xlim(0, 1.06 * max(1, *(axes.dataLim.x1 for axes in panels)))

    def _curve(self, record: TrainingRecord, name: str) -> Curve:
        """The points of a curve that are measurements."""
        return [(step, value) for step, value in record.curve(name) if self._counts(name, value)]

    def _draw_overlap_along(self, axes: Axes, arms: Sequence[str], along: str) -> None:
        """Draw the overlap, mean over seeds, over the mean of another curve."""
        for arm, style in styles(arms).items():
            both = [
                (record.curve('overlap'), other)
                for record in self.arms[arm]
                if record.curve('overlap') and (other := self._curve(record, along))
            ]
            if not both:
                continue
            overlaps = summarise_curves([dict(overlap) for overlap, _ in both])
            if along == 'loss':  # the lowest so far; before the first epoch ended there is none
                overlaps = {at: one for at, one in overlaps.items() if at >= both[0][1][0][0]}
                curves = [_lowest_so_far(other) for _, other in both]
            else:  # at the start of training nothing has moved yet
                curves = [[(0.0, 0.0), *other] for _, other in both]
            where = [fmean(interpolate(curve, step) for curve in curves) for step in overlaps]
            means = [one.mean for one in overlaps.values()]
            look: dict = dict(style, label=arm, linewidth=1.6, markersize=5)
            every = max(1, len(means) // MARKERS_OF_A_LINE)
            axes.plot(where, means, markerfacecolor='white', markevery=every, **look)
        axes.set_xlabel(ALONG[along])
        axes.set_ylabel(OVERLAP)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        tidy(axes)
        if along == 'loss':
            axes.invert_xaxis()


def _lowest_so_far(curve: Curve) -> Curve:
    steps, values = zip(*curve, strict=True)
    return list(zip(steps, accumulate(values, min), strict=True))
