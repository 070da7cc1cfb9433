"""How a metric falls as filters are removed: results on disk, tables, pictures, a page."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmwau.files import write_whole
from mmwau.plots import legend_above, styles, tidy

from .page import Section, Table

# How much of the whole network's metric is left where the summary looks.
LEVEL = 0.9
HOW_TO_READ = (
    'Filters (output channels of a convolution) are removed step by step: their channels are zero '
    'behind the norm that follows the convolution. Nothing is trained afterwards, and the '
    'statistics of norms are those of the whole network. A network whose metric stays up longer '
    'as filters go has more filters that it can do without: it is the more redundant one, as far '
    'as this order of removal shows.',
    'Each order is one of the filters within their layer. l1: least L1 norm first (Li et al., '
    '1608.08710). overlap: most filter overlap first (the measure of RePr, 1811.07275). random: '
    'mean over seeds, ± the sample standard deviation; all checkpoints lose the same filters.',
    'apoz: highest average percentage of zeros first (Hu et al., 1607.03250), which is the '
    'fraction of outputs that are not above zero behind the norm that follows the convolution, or '
    'behind the convolution itself where none follows. That is what a ReLU there would make zero; '
    "where a ReLU follows directly it is the paper's measure.",
    'Of two networks that start at different heights, compare what is left in relation to the '
    'start: the lower row of the picture and the last columns of its table. One training of each '
    'is one sample: two trainings that differ in their seed alone give different curves as well.',
)


@dataclass(frozen=True)
class Point:
    """A measurement: one evaluation of a checkpoint with some filters removed.

    Args:
        checkpoint: SHA-256 of the checkpoint file.
        order: Order of removal, or None for the whole network.
        seed: Of the random order.
        layer: The layer that loses filters, or None for all at once.
        fraction: Of each layer's filters, those that are removed, in [0, 1).
    """

    checkpoint: str
    order: str | None = None
    seed: int | None = None
    layer: str | None = None
    fraction: float = 0.0


class Results:
    """Measurements in a JSON file, which is whole after each of them.

    Args:
        path: The file; measurements in it are kept.
        identity: What was measured on what: settings that may not differ within a file. Under
            ``'checkpoints'`` the path of each checkpoint by its SHA-256.
        overwrite: Whether to start anew.

    Raises:
        ValueError: If the file has results of something else, or can't be read.
    """

    def __init__(self, path: str | Path, identity: Mapping, overwrite: bool = False):
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity, default=str))
        self.metrics: dict[Point, dict[str, float]] = {}
        if overwrite or not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text())
            earlier = content['identity']
            self.metrics = {
                Point(**point['point']): point['metrics'] for point in content['points']
            }
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{self.path} can not be read ({type(error).__name__}: {error}). Name another '
                '--work-dir, or start anew with --overwrite'
            ) from error
        differences = list(_differences(earlier, self.identity))
        if differences:
            raise ValueError(
                f'{self.path} holds results of something else:\n  '
                + '\n  '.join(differences[:8])
                + '\nName another --work-dir, or remove these results with --overwrite'
            )

    def add(self, point: Point, metrics: Mapping[str, float]) -> None:
        """Add a measurement and write the file."""
        self.metrics[point] = dict(metrics)
        points = [
            {'point': asdict(point), 'metrics': metrics} for point, metrics in self.metrics.items()
        ]
        # One line for each measurement.
        lines = ',\n'.join(json.dumps(point) for point in points)
        content = f'{{"identity": {json.dumps(self.identity)},\n"points": [\n{lines}\n]}}\n'
        write_whole(content.encode(), self.path)


@dataclass(frozen=True)
class Curves:
    """What is measured and shown.

    Args:
        checkpoints: SHA-256 of each checkpoint by its label.
        orders: Orders of removal.
        seeds: Of the random order.
        fractions: To remove from all layers at once, each in (0, 1), ascending.
        layers: Number of filters of the layers that are looked at one by one, by name.
        layer_fractions: To remove from one layer at a time, each in (0, 1), ascending.
    """

    checkpoints: Mapping[str, str]
    orders: Sequence[str]
    seeds: Sequence[int]
    fractions: Sequence[float]
    layers: Mapping[str, int]
    layer_fractions: Sequence[float]

    def points(self, label: str) -> Iterator[Point]:
        """All measurements of a checkpoint, the whole network first."""
        yield Point(self.checkpoints[label])
        for order in self.orders:
            for fraction in self.fractions:
                yield from self._repeats(label, order, fraction)
        for layer in self.layers:
            for order in self.orders:
                for fraction in self.layer_fractions:
                    yield from self._repeats(label, order, fraction, layer)

    def _repeats(
        self, label: str, order: str, fraction: float, layer: str | None = None
    ) -> list[Point]:
        seeds = self.seeds if order == 'random' else [None]
        return [Point(self.checkpoints[label], order, seed, layer, fraction) for seed in seeds]


@dataclass(frozen=True)
class Report:
    """Tables and pictures of curves that are measured.

    Args:
        curves: What was measured.
        metrics: All metrics of each measurement.
        metric: Name of the metric to show, of which more is better.
    """

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
        return [self._value(point) for point in self.curves._repeats(label, order, fraction, layer)]

    def _value(self, point: Point) -> float:
        # A detector that finds nothing at all has no metrics in MMDetection.
        return self.metrics[point].get(self.metric, 0.0)

    def network_table(self, most: int | None = None) -> Table:
        """The metric by fraction removed from all layers; its summary in the last columns.

        Args:
            most: Show at most so many fractions, evenly chosen; the summary is of all.
        """
        curves, rows = self.curves, []
        step = math.ceil(len(curves.fractions) / most) if most else 1
        shown = slice(step - 1, None, step)
        for order, label in self._arms(curves.orders):
            whole = self.whole(label)
            columns = [self.values(label, order, fraction) for fraction in curves.fractions]
            means = [fmean(values) for values in columns]
            kept = fraction_kept((0.0, *curves.fractions), (whole, *means))
            if whole <= 0:
                kept_text = '-'
            elif kept is None:
                kept_text = f'> {_percent(curves.fractions[-1])}'
            else:
                kept_text = f'{100 * kept:.1f} %'
            relative = [self.relative(label, order, fraction) for fraction in curves.fractions]
            areas = list(map(fmean, zip(*relative, strict=True)))
            texts = map(self._text, (whole, *means[shown]))
            rows.append([f'{order}, {label}', *texts, kept_text, _number(fmean(areas))])
            if len(columns[0]) > 1:
                spreads = map(self._text, map(_spread, columns[shown]))
                row = [f'  ± over {len(columns[0])} seeds', '', *spreads, '']
                rows.append([*row, _number(_spread(areas))])
        return Table(
            f'{self.metric} by fraction of filters removed from every layer. Falls: the fraction '
            f"at which it has fallen to {_percent(LEVEL)} of the whole network's. Left: mean of "
            f'metric / whole over all fractions above 0.',
            ['order, checkpoint', *map(_percent, (0.0, *curves.fractions[shown])), 'falls', 'left'],
            rows,
        )

    def layer_table(self, fraction: float, orders: Sequence[str]) -> Table:
        """What is left of the metric with the fraction removed from one layer at a time."""
        rows = []
        for layer, filters in self.curves.layers.items():
            row = [layer, str(filters)]
            for order, label in self._arms(orders):
                row.append(_number(fmean(self.relative(label, order, fraction, layer))))
            rows.append(row)
        return Table(
            f'{self.metric} / that of the whole network, with {_percent(fraction)} of the filters '
            'of one layer removed',
            ['layer', 'filters', *(f'{order}, {label}' for order, label in self._arms(orders))],
            rows,
        )

    def relative(
        self, label: str, order: str, fraction: float, layer: str | None = None
    ) -> list[float]:
        """The metric in relation to that of the whole network; nan where that is 0."""
        whole = self.whole(label)
        return [
            value / whole if whole else math.nan
            for value in self.values(label, order, fraction, layer)
        ]

    def draw_network(self) -> Figure:
        """The metric by fraction removed from all layers: a column of panels for each order.

        Above stands the metric, below what is left of that of the whole network.
        """
        curves = self.curves
        figure = Figure(figsize=_size(len(curves.orders), 5.6), layout='constrained')
        panels = figure.subplots(2, len(curves.orders), sharex=True, sharey='row', squeeze=False)
        for column, order in enumerate(curves.orders):
            panels[0][column].set_title(self._title(order), fontsize=10)
            for label, style in self._styles():
                values = [self.values(label, order, fraction) for fraction in curves.fractions]
                self._draw_curve(panels[0][column], label, style, self.whole(label), values)
                relative = [self.relative(label, order, fraction) for fraction in curves.fractions]
                self._draw_curve(panels[1][column], label, style, 1.0, relative)
            panels[1][column].axhline(LEVEL, color='#9a9a9a', linestyle=':', linewidth=1)
        panels[0][0].set_ylabel(self.metric)
        panels[1][0].set_ylabel(f'/ whole (dotted: {_percent(LEVEL)})')
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
        means = [whole, *map(fmean, columns)]
        axes.plot(at, means, label=label, markersize=5, markerfacecolor='none', **style)
        if len(columns[0]) > 1:
            spreads = [0.0, *map(_spread, columns)]
            low, high = (
                [mean + sign * spread for mean, spread in zip(means, spreads, strict=True)]
                for sign in (-1, 1)
            )
            axes.fill_between(at, low, high, color=style['color'], alpha=0.2, linewidth=0)

    def _title(self, order: str) -> str:
        many = order == 'random' and len(self.curves.seeds) > 1
        return f'random, mean ± std of {len(self.curves.seeds)} seeds' if many else order

    def draw_layers(self, fraction: float) -> Figure:
        """What is left with the fraction removed from one layer at a time: a row for each layer."""
        curves, rows = self.curves, range(len(self.curves.layers))
        figure = Figure(
            figsize=_size(len(curves.orders), 1.6 + 0.2 * len(rows)), layout='constrained'
        )
        panels = figure.subplots(1, len(curves.orders), sharex=True, sharey=True, squeeze=False)[0]
        for axes, order in zip(panels, curves.orders, strict=True):
            axes.axvline(1, color='#9a9a9a', linewidth=1, zorder=0)
            for label, style in self._styles():
                columns = [self.relative(label, order, fraction, layer) for layer in curves.layers]
                spreads = list(map(_spread, columns)) if len(columns[0]) > 1 else None
                axes.errorbar(
                    list(map(fmean, columns)), rows, xerr=spreads, label=label, markersize=5,
                    markerfacecolor='none', **{**style, 'linestyle': 'none'},
                )  # fmt: skip
            axes.set_title(self._title(order), fontsize=10)
            tidy(axes)
        panels[0].set_yticks(rows, curves.layers, fontsize=7)
        panels[0].set_ylim(len(rows) - 0.3, -0.7)
        figure.supxlabel(
            f'{self.metric} / whole network, {_percent(fraction)} of one layer removed',
            fontsize=10,
        )
        legend_above(figure, panels[0])
        return figure

    def sections(self, measured: Table, left_out: Mapping[str, str]) -> list[Section]:
        """The parts of the page.

        Args:
            measured: What was measured on what.
            left_out: Reasons by name of the layers that lose no filters.
        """
        sections = [
            Section('How to read this', HOW_TO_READ),
            Section('All layers at once', [self.draw_network(), self.network_table()]),
        ]
        if self.curves.layers:
            parts = [
                'The other layers are whole. What stays at 1 can lose these filters without harm; '
                'above 1 the network is better without them.'
            ]
            for fraction in self.curves.layer_fractions:
                parts += [
                    self.draw_layers(fraction),
                    self.layer_table(fraction, self.curves.orders),
                ]
            sections.append(Section('One layer at a time', parts))
        parts = [measured]
        if left_out:
            parts.append(
                Table('Layers that lose no filters', ['layer', 'reason'], list(left_out.items()))
            )
        return [*sections, Section('What was measured', parts)]

    def _arms(self, orders: Sequence[str]) -> list[tuple[str, str]]:
        """Orders and labels of checkpoints; within an order the checkpoints side by side."""
        return [(order, label) for order in orders for label in self.curves.checkpoints]

    def _styles(self) -> Iterator[tuple[str, dict]]:
        for label, (colour, marker) in zip(self.curves.checkpoints, styles(), strict=False):
            yield label, dict(color=colour, marker=marker)

    def _text(self, value: float) -> str:
        """A metric as text; those in percent have fewer decimals."""
        largest = max(map(self.whole, self.curves.checkpoints))
        return f'{value:.2f}' if largest > 1 else f'{value:.3f}'


def fraction_kept(
    fractions: Sequence[float], values: Sequence[float], level: float = LEVEL
) -> float | None:
    """The fraction at which a metric has first fallen to a level of its first value.

    Args:
        fractions: Ascending.
        values: The metric at each of them, at least one; linear in between.
        level: In relation to the first value.

    Returns:
        The fraction, or None if the metric never falls so far.
    """
    target = level * values[0]
    for index in range(1, len(values)):
        before, after = values[index - 1], values[index]
        if after <= target:
            share = (before - target) / (before - after) if before > after else 0.0
            return fractions[index - 1] + share * (fractions[index] - fractions[index - 1])
    return None


def _differences(earlier: object, now: object, name: str = '') -> Iterator[str]:
    """Sentences on what differs, by the dotted name of each setting."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in {**earlier, **now}:
            inner = f'{name}.{key}' if name else key
            if name == 'checkpoints' and key not in now:
                yield f'a checkpoint that is not among these, or was another file: {earlier[key]}'
            elif name != 'checkpoints':  # one more checkpoint is welcome
                yield from _differences(earlier.get(key), now.get(key), inner)
    elif earlier != now:
        yield f'{name}: {_short(earlier)} there, {_short(now)} now'


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f'{text[:117]}...'


def _percent(fraction: float) -> str:
    return f'{100 * fraction:.3g} %'


def _spread(values: Sequence[float]) -> float:
    """Sample standard deviation; nan if one of them is, at which ``stdev`` fails."""
    return math.nan if any(map(math.isnan, values)) else stdev(values)


def _number(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.3f}'


def _size(panels: int, height: float) -> tuple[float, float]:
    return max(6.0, 1.5 + 3 * panels), height
