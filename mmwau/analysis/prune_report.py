"""How a metric falls as filters are removed: tables, pictures, a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmwau.reporting.labels import metric_label, name_some
from mmwau.reporting.page import Part, Section, Table
from mmwau.reporting.plots import legend_above, styles, tidy
from mmwau.runs.metrics import is_measured, why_left_out

from .prune_results import Curves, Point, describe

# How much of the whole network's metric is left where the summary looks.
LEVEL = 0.9
HOLLOW: dict[str, Any] = dict(markersize=5, markerfacecolor='none')
NO_VALUE = '-'
ORDER_TITLES = dict(
    l1='l1: least norm first',
    overlap='overlap: most first',
    apoz='apoz: most zeros first',
    taylor='taylor: least influence first',
    random='random',
)
HOW_TO_READ = (
    'Filters (output channels of a convolution) are removed step by step: their channels are zero '
    'behind the norm that follows the convolution. Nothing is trained afterwards, and the '
    'statistics of norms are those of the whole network. A network whose metric stays up longer '
    'as filters go has more filters that it can do without: it is the more redundant one, as far '
    'as this order of removal shows. Behind ±, and as bands and bars: the sample standard '
    'deviation over the seeds of the random order.'
)
ORDERS_EXPLAINED = (
    'Each order is one of the filters within their layer. l1: least L1 norm first (Li et al., '
    '1608.08710). overlap: most filter overlap first (the measure of RePr, 1811.07275). random: '
    'mean over seeds; all checkpoints lose the same filters.',
    'apoz: highest average percentage of zeros first (Hu et al., 1607.03250), which is the '
    'fraction of outputs that are not above zero behind the norm that follows the convolution, or '
    'behind the convolution itself where none follows. That is what a ReLU there would make zero; '
    "where a ReLU follows directly it is the paper's measure.",
    'taylor: the filter first without which the loss would change least, to first order, on images '
    'of the training data (Molchanov et al., 1611.06440, equations 7 and 8), at the same place.',
)
HOW_TO_COMPARE = (
    'If two networks start from different values, compare what is left relative to the start: the '
    'lower row of the picture and the last columns of its table. One training of each is one '
    'sample: two trainings that differ only in their seed give different curves as well.'
)


@dataclass(frozen=True)
class PruneReport:
    """Tables and pictures of curves that are measured, by a metric of which more is better."""

    curves: Curves
    metrics: Mapping[Point, Mapping[str, float]]
    metric: str

    def whole(self, label: str) -> float:
        """The metric of a checkpoint that has all its filters."""
        return self._value(Point(self.curves.checkpoints[label]))

    def values(
        self, label: str, order: str, fraction: float, layer: str | None = None
    ) -> list[float]:
        """The metric with filters removed: one value, or under the random order one a seed."""
        return [self._value(point) for point in self.curves.repeats(label, order, fraction, layer)]

    def _value(self, point: Point) -> float:
        """The metric of a measurement; nan where it is none."""
        value = self._logged(point)
        return value if is_measured(value) else math.nan

    def _logged(self, point: Point) -> float | None:
        # A detector that finds nothing at all has no metrics in MMDetection.
        return self.metrics[point].get(self.metric, 0.0)

    def warnings(self) -> list[str]:
        """Sentences on what is left out, being no measurement."""
        found = []
        for label in self.curves.checkpoints:
            whole, *pruned = self.curves.points(label)
            if not is_measured(self._logged(whole)):
                found.append(
                    f'{self.metric} of the whole network {label} is no measurement '
                    f'({why_left_out(self._logged(whole))}): it has no curve'
                )
                continue
            where: dict[str, list[str]] = {}
            for point in pruned:
                if not is_measured(self._logged(point)):
                    reason = why_left_out(self._logged(point))
                    where.setdefault(reason, []).append(describe(point, label))
            found += [
                f'{self.metric} is no measurement ({reason}) and left out: {name_some(names, 6)}'
                for reason, names in where.items()
            ]
        return found

    def network_table(self, most: int | None = None) -> Table:
        """The metric by fraction removed from all layers; its summary in the last columns.

        Means are over the seeds with a measurement. A curve with a fraction at which there is none
        has no summary, which is of all fractions; at most ``most`` of them are shown.
        """
        curves, rows = self.curves, []
        step = math.ceil(len(curves.fractions) / most) if most else 1
        shown = slice(step - 1, None, step)
        for order, label in product(curves.orders, curves.checkpoints):
            whole = self.whole(label)
            columns = [self.values(label, order, fraction) for fraction in curves.fractions]
            means = [mean(values) for values in columns]
            kept = fraction_kept((0.0, *curves.fractions), (whole, *means))
            falls = f'> {percent(curves.fractions[-1])}'
            if kept is not None:
                falls = NO_VALUE if math.isnan(kept) else f'{100 * kept:.1f} %'
            relative = [self.relative(label, order, fraction) for fraction in curves.fractions]
            # That of a seed whose curve has a hole is nan.
            areas = list(map(fmean, zip(*relative, strict=True)))
            texts = map(self.text, (whole, *means[shown]))
            rows.append([f'{order}, {label}', *texts, falls, number(mean(areas))])
            if len(columns[0]) > 1:
                spreads = map(self.text, map(_spread, columns[shown]))
                row = [f'  ± over {len(columns[0])} seeds', '', *spreads, '']
                rows.append([*row, number(_spread(areas))])
        return Table(
            f'{self.metric} by fraction of filters removed from every layer. Falls: the fraction '
            f"at which it has fallen to {percent(LEVEL)} of the whole network's. Left: mean of "
            f'metric / whole over all fractions above 0.',
            ['order, checkpoint', *map(percent, (0.0, *curves.fractions[shown])), 'falls', 'left'],
            rows,
        )

    def layer_table(self, fraction: float, orders: Sequence[str]) -> Table:
        """What is left of the metric with the fraction removed from one layer at a time."""
        # Within an order the checkpoints side by side.
        arms = list(product(orders, self.curves.checkpoints))
        rows = []
        for layer, filters in self.curves.layers.items():
            left = (mean(self.relative(label, order, fraction, layer)) for order, label in arms)
            rows.append([layer, str(filters), *map(number, left)])
        return Table(
            f'{self.metric} / that of the whole network, with {percent(fraction)} of the filters '
            'of one layer removed',
            ['layer', 'filters', *map(', '.join, arms)],
            rows,
        )

    def relative(
        self, label: str, order: str, fraction: float, layer: str | None = None
    ) -> list[float]:
        """The metric relative to that of the whole network; nan where that is not above 0."""
        whole = self.whole(label)
        return [
            value / whole if whole > 0 else math.nan
            for value in self.values(label, order, fraction, layer)
        ]

    def draw_network(self) -> Figure:
        """The metric by fraction removed from all layers: a column of panels for each order.

        Above stands the metric, below what is left of that of the whole network.
        """
        curves = self.curves
        figure = Figure(figsize=panels_size(len(curves.orders), 5.6), layout='constrained')
        panels = figure.subplots(2, len(curves.orders), sharex=True, sharey='row', squeeze=False)
        for column, order in enumerate(curves.orders):
            panels[0][column].set_title(self._title(order), fontsize=10)
            for label, style in styles(curves.checkpoints).items():
                values = [self.values(label, order, fraction) for fraction in curves.fractions]
                self._draw_curve(panels[0][column], label, style, self.whole(label), values)
                relative = [self.relative(label, order, fraction) for fraction in curves.fractions]
                whole = 1.0 if self.whole(label) > 0 else math.nan
                self._draw_curve(panels[1][column], label, style, whole, relative)
            panels[1][column].axhline(LEVEL, color='#9a9a9a', linestyle=':', linewidth=1)
        panels[0][0].set_ylabel(metric_label(self.metric))
        panels[1][0].set_ylabel(f"part of the whole network's\n(dotted: {percent(LEVEL)})")
        for axes in panels.flat:
            axes.set_ylim(bottom=0)
            tidy(axes)
        figure.supxlabel('filters removed from every layer (%)', fontsize=10)
        legend_above(figure, panels[0][0])
        return figure

    def _draw_curve(
        self, axes: Axes, label: str, style: dict, whole: float, columns: list[list[float]]
    ) -> None:
        """A line through the means, with a band of the spread over seeds."""
        at = [100 * fraction for fraction in (0.0, *self.curves.fractions)]
        means = np.array([whole, *map(mean, columns)])
        axes.plot(at, means, label=label, **HOLLOW, **style)
        if len(columns[0]) > 1:
            spreads = np.array([0.0, *map(_spread, columns)])
            band: dict[str, Any] = dict(color=style['color'], alpha=0.2, linewidth=0)
            axes.fill_between(at, means - spreads, means + spreads, **band)

    def _title(self, order: str) -> str:
        many = order == 'random' and len(self.curves.seeds) > 1
        title = ORDER_TITLES[order]
        return f'{title}, ± std of {len(self.curves.seeds)} seeds' if many else title

    def draw_layers(self, fraction: float) -> Figure:
        """What is left with the fraction removed from one layer at a time: a row for each layer."""
        curves, rows = self.curves, range(len(self.curves.layers))
        size = panels_size(len(curves.orders), 1.6 + 0.2 * len(rows))
        figure = Figure(figsize=size, layout='constrained')
        panels = figure.subplots(1, len(curves.orders), sharex=True, sharey=True, squeeze=False)[0]
        for axes, order in zip(panels, curves.orders, strict=True):
            axes.axvline(1, color='#9a9a9a', linewidth=1, zorder=0)
            for label, style in styles(curves.checkpoints).items():
                columns = [self.relative(label, order, fraction, layer) for layer in curves.layers]
                means, look = list(map(mean, columns)), {**HOLLOW, **style, 'linestyle': 'none'}
                spreads = list(map(_spread, columns)) if len(columns[0]) > 1 else None
                axes.errorbar(means, rows, xerr=spreads, label=label, **look)
            axes.set_title(self._title(order), fontsize=10)
            tidy(axes)
        panels[0].set_yticks(rows, curves.layers, fontsize=8)
        panels[0].set_ylim(len(rows) - 0.3, -0.7)
        figure.supxlabel(
            f'{self.metric} / whole network, {percent(fraction)} of one layer removed', fontsize=10
        )
        legend_above(figure, panels[0])
        return figure

    def sections(self, measured: Table, left_out: Mapping[str, str]) -> list[Section]:
        """The parts of the page, with what was measured on what, and why layers are left out."""
        warnings = self.warnings()
        sections = [
            *([Section('Warnings', warnings)] if warnings else []),
            Section('How to read this', [HOW_TO_READ, *ORDERS_EXPLAINED, HOW_TO_COMPARE]),
            Section('All layers at once', [self.draw_network(), self.network_table()]),
        ]
        if self.curves.layers:
            parts: list[Part] = [
                'The other layers are whole. What stays at 1 can lose these filters without harm; '
                'above 1 the network is better without them.'
            ]
            for fraction in self.curves.layer_fractions:
                table = self.layer_table(fraction, self.curves.orders)
                parts += [self.draw_layers(fraction), table]
            sections.append(Section('One layer at a time', parts))
        return [*sections, measured_section(measured, left_out)]

    def text(self, value: float) -> str:
        """A metric as text; those in percent have fewer decimals."""
        if math.isnan(value):
            return NO_VALUE
        percent = any(self.whole(label) > 1 for label in self.curves.checkpoints)
        return f'{value:.2f}' if percent else f'{value:.3f}'


def fraction_kept(fractions: Sequence[float], values: Sequence[float]) -> float | None:
    """The fraction at which a metric has first fallen to :data:`LEVEL` of its first value.

    Args:
        fractions: Ascending.
        values: The metric at each of them, at least one; linear in between. nan where there is
            no measurement.

    Returns:
        The fraction, or None if the metric never falls so far; nan where nobody knows, since a
        measurement is missing before it has, or the first value is not above 0.
    """
    if not values[0] > 0:
        return math.nan
    target = LEVEL * values[0]
    points = zip(fractions, values, strict=True)
    for (start, before), (end, after) in pairwise(points):
        if math.isnan(after):
            return math.nan
        if after <= target:
            return start + (before - target) / (before - after) * (end - start)
    return None


def measured_section(measured: Table, left_out: Mapping[str, str]) -> Section:
    """The last part of a page: what was measured on what, and the layers that lose no filters."""
    parts = [measured]
    if left_out:
        rows = list(left_out.items())
        parts.append(Table('Layers that lose no filters', ['layer', 'reason'], rows))
    return Section('What was measured', parts)


def percent(fraction: float) -> str:
    """A fraction as text."""
    return f'{100 * fraction:.3g} %'


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are measurements; nan if there is none."""
    measured = [value for value in values if not math.isnan(value)]
    return fmean(measured) if measured else math.nan


def _spread(values: Sequence[float]) -> float:
    """Sample standard deviation of those that are measurements; nan if they are fewer than two."""
    measured = [value for value in values if not math.isnan(value)]
    return stdev(measured) if len(measured) > 1 else math.nan


def number(value: float) -> str:
    """A number as text, or a sign for none."""
    return NO_VALUE if math.isnan(value) else f'{value:.3f}'


def panels_size(panels: int, height: float) -> tuple[float, float]:
    """Size of a figure with a number of panels side by side."""
    return max(6.0, 1.5 + 3 * panels), height
