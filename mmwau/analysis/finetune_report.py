"""How small networks get that lose filters for good and train on: tables, pictures, a page."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmwau.reporting.numbers import NO_BREAK, gap_text, mean_text
from mmwau.reporting.page import Section, Table
from mmwau.reporting.plots import legend_above, styles, tidy
from mmwau.reporting.statistics import summarise
from mmwau.runs.metrics import is_measured

from .finetuning import BEFORE, BYTES, DIVERGED, MULTIPLICATIONS, PARAMETERS, SIZES
from .prune_report import (
    HOLLOW,
    NO_VALUE,
    ORDER_TITLES,
    ORDERS_EXPLAINED,
    PruneReport,
    mean,
    measured_section,
    number,
    panels_size,
    percent,
)
from .prune_results import Point

# What the paper's abstract says of networks that lose their filters of little contribution.
CLAIMED = (20, 40)
ARMS_DRAWN = (
    'A line of the picture is the mean of the checkpoints of an arm; its band reaches from the '
    'lowest to the highest of them.'
)
HEADINGS = {
    PARAMETERS: 'parameters',
    BYTES: 'file of weights',
    MULTIPLICATIONS: 'multiplications',
}


@dataclass(frozen=True)
class FinetuneReport(PruneReport):
    """Tables and pictures of networks that lost filters for good.

    Args:
        epochs: Epochs that each network was trained on for.
        tolerance: Of the whole network's metric the fraction that may be lost, in [0, 1).
        arms: For each arm the labels of its checkpoints, as many as in the first one, the baseline,
            and paired by their place; empty if checkpoints are compared one by one.
    """

    epochs: int = 1
    tolerance: float = 0.0
    arms: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def before(self, label: str) -> float:
        """The metric of a checkpoint as it was, before it was trained on."""
        measured = self.metrics[Point(self.curves.checkpoints[label])]
        value = measured.get(f'{BEFORE}{self.metric}', 0.0)  # see _logged
        return value if is_measured(value) else math.nan

    def _logged(self, point: Point) -> float | None:
        return math.nan if DIVERGED in self.metrics[point] else super()._logged(point)

    def limits(self, label: str, order: str) -> tuple[float | None, float | None]:
        """How far filters can go, fraction by fraction.

        Returns:
            The last fraction before the metric is lost; and the first one at which it is lost,
            None if it never is. Both are None where nobody knows, since a measurement is missing
            before, or the metric of the whole network is not above 0.
        """
        target, kept = (1 - self.tolerance) * self.whole(label), 0.0
        if not self.whole(label) > 0:
            return None, None
        for fraction in self.curves.fractions:
            value = mean(self.values(label, order, fraction))
            if math.isnan(value):
                return None, None
            if value < target and not math.isclose(value, target):
                return kept, fraction
            kept = fraction
        return kept, None

    def size(self, label: str, order: str, fraction: float, kind: str) -> float:
        """A size, of :data:`SIZES`; under the random order the mean over seeds."""
        points = [Point(self.curves.checkpoints[label])]
        if fraction:
            points = self.curves.repeats(label, order, fraction)
        return fmean(self.metrics[point][kind] for point in points)

    def share(self, label: str, order: str, fraction: float, kind: str) -> float:
        """A size relative to that of the whole network, in (0, 1]."""
        return self.size(label, order, fraction, kind) / self.size(label, order, 0.0, kind)

    def limit_table(self) -> Table:
        """A row for each order and checkpoint: the smallest network that keeps the metric."""
        rows = []
        for order, label in product(self.curves.orders, self.curves.checkpoints):
            kept, lost = self.limits(label, order)
            row = [f'{order}, {label}', self.text(self.before(label)), self.text(self.whole(label))]
            if kept is None:
                rows.append([*row, *[NO_VALUE] * 6])
                continue
            metric = self.whole(label) if not kept else mean(self.values(label, order, kept))
            sizes = [self._size_text(label, order, kept, kind) for kind in SIZES]
            falls = f'> {percent(self.curves.fractions[-1])}'
            if lost is not None:
                left = percent(self.share(label, order, lost, PARAMETERS))
                falls = f'{percent(lost)}, {left} of parameters'
            rows.append([*row, percent(kept), self.text(metric), *sizes, falls])
        return Table(
            f'The most filters that can go for good, with {self._trained()}, before {self.metric} '
            f"is lost by more than {percent(self.tolerance)} of the whole network's, which was "
            'trained on as long; and what is left then, also relative to it. Before: the metric of '
            'the checkpoint.',
            [
                'order, checkpoint',
                'before',
                'whole',
                'filters removed',
                self.metric,
                *HEADINGS.values(),
                'lost with',
            ],
            rows,
        )

    def arm_tables(self) -> list[Table]:
        """What is left of the metric in each arm, and gaps; empty where there are no arms."""
        if not self.arms:
            return []
        baseline, *others = self.arms
        rows = []
        for order in self.curves.orders:
            for fraction in self.curves.fractions:
                left = partial(self._left, order, fraction)
                rows.append([order, percent(fraction), *self._compare(left)])
            kept = partial(self._kept, order)
            rows.append([order, 'most, metric kept', *self._compare(kept)])
        number_of = len(self.arms[baseline])
        return [
            Table(
                f'{self.metric} / that of the whole network trained on as long, mean ± sample '
                f'standard deviation of {number_of} checkpoints; the gap to {baseline}, paired by '
                'place, with its 95 % interval. [1 of 2]: the others have no measurement. Last: '
                'the largest fraction of filters that can go, of those tried, before more than '
                f'{percent(self.tolerance)} of the metric is lost',
                ['order', 'filters removed', *self.arms, *(f'Gap, {arm}' for arm in others)],
                rows,
            )
        ]

    def _compare(self, measure: Callable[[str], float]) -> list[str]:
        """The mean of each arm, and the gap to the first one of each other."""
        found = [[measure(label) for label in labels] for labels in self.arms.values()]
        gaps = [
            [ours - theirs for ours, theirs in zip(values, found[0], strict=True)]
            for values in found[1:]
        ]
        return [
            f'{text(summarise(_measured(values)), 3)}{_of_how_many(values)}'
            for text, each in ((mean_text, found), (gap_text, gaps))
            for values in each
        ]

    def _left(self, order: str, fraction: float, label: str) -> float:
        return mean(self.relative(label, order, fraction))

    def _kept(self, order: str, label: str) -> float:
        kept = self.limits(label, order)[0]
        return math.nan if kept is None else kept

    def size_table(self) -> Table:
        """A row for each network: its metric and its sizes."""
        rows = []
        for order, label in product(self.curves.orders, self.curves.checkpoints):
            for fraction in self.curves.fractions:
                value = self.text(mean(self.values(label, order, fraction)))
                relative = number(mean(self.relative(label, order, fraction)))
                sizes = [self._size_text(label, order, fraction, kind) for kind in SIZES]
                rows.append([f'{order}, {label}', percent(fraction), value, relative, *sizes])
        return Table(
            f'Every network, with {self._trained()}',
            [
                'order, checkpoint',
                'filters removed',
                self.metric,
                '/ whole',
                *HEADINGS.values(),
            ],
            rows,
        )

    def draw_sizes(self) -> Figure:
        """The metric by what is left of parameters and multiplications, a column for each order."""
        orders = self.curves.orders
        figure = Figure(figsize=panels_size(len(orders), 6.2), layout='constrained')
        panels = figure.subplots(2, len(orders), sharey=True, squeeze=False)
        for column, order in enumerate(orders):
            panels[0][column].set_title(self._title(order), fontsize=10)
            for axes, kind in zip(panels[:, column], (PARAMETERS, MULTIPLICATIONS), strict=True):
                axes.axvspan(*CLAIMED, color='#eeeeee', zorder=0)
                axes.axhline(1 - self.tolerance, color='#9a9a9a', linestyle=':', linewidth=1)
                for name, style in styles(self._lines()).items():
                    self._draw_line(axes, name, style, order, kind)
                axes.set_xlabel(f'{HEADINGS[kind]} left (%)')
                axes.set_xlim(0, 103)
                tidy(axes)
        for axes in panels[:, 0]:
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
            axes.set_ylabel(f"{self.metric},\npart of the whole network's")
        legend_above(figure, panels[0][0])
        return figure

    def _title(self, order: str) -> str:
        seeds = len(self.curves.seeds)
        many = order == 'random' and seeds > 1
        return f'{ORDER_TITLES[order]}, mean of {seeds} seeds' if many else ORDER_TITLES[order]

    def _lines(self) -> Mapping[str, Sequence[str]]:
        """The checkpoints of each line of a picture: those of an arm, or one."""
        return self.arms or {label: [label] for label in self.curves.checkpoints}

    def _draw_line(self, axes: Axes, name: str, style: dict, order: str, kind: str) -> None:
        labels = self._lines()[name]
        left, means, low, high = [100.0], [1.0], [1.0], [1.0]
        for fraction in self.curves.fractions:
            left.append(100 * fmean(self.share(label, order, fraction, kind) for label in labels))
            values = [self._left(order, fraction, label) for label in labels]
            means.append(mean(values))
            measured = _measured(values) or [math.nan]
            low.append(min(measured))
            high.append(max(measured))
        axes.plot(left, means, label=name, **HOLLOW, **style)
        if len(labels) > 1:
            axes.fill_between(left, low, high, color=style['color'], alpha=0.15, linewidth=0)

    def sections(self, measured: Table, left_out: Mapping[str, str]) -> list[Section]:
        """The parts of the page; takes the arguments of the base class."""
        how = (
            'Filters are removed for good, in one go and from every layer, with what belongs to '
            'them in other layers; layers whose outputs are added lose the same filters. Each '
            'network begins with the weights of its checkpoint and is trained on for '
            f'{self._epochs()} with the config, its learning rate beginning anew. So is the '
            'whole network that it is compared with. Multiplications are those for the first image '
            'of the test data. Dotted: what may be lost. Grey: the 20 to 40 % of its original size '
            "to which the paper's abstract says a network can be compressed.",
            *([ARMS_DRAWN] if self.arms else []),
            *ORDERS_EXPLAINED,
        )
        warnings = self.warnings()
        return [
            *([Section('Warnings', warnings)] if warnings else []),
            Section('How to read this', how),
            Section(
                'What is left of the networks',
                [self.limit_table(), *self.arm_tables(), self.draw_sizes(), self.size_table()],
            ),
            measured_section(measured, left_out),
        ]

    def _trained(self) -> str:
        return f'{self._epochs()} of training afterwards'

    def _epochs(self) -> str:
        return f'{self.epochs} {"epoch" if self.epochs == 1 else "epochs"}'

    def _size_text(self, label: str, order: str, fraction: float, kind: str) -> str:
        value, share = (get(label, order, fraction, kind) for get in (self.size, self.share))
        scaled = f'{value / 1e6:.3g} M' if value < 1e9 else f'{value / 1e9:.3g} G'
        text = f'{value:,.0f}' if kind == PARAMETERS else scaled
        return f'{text}{"B" if kind == BYTES else ""} ({percent(share)})'


def _measured(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _of_how_many(values: Sequence[float]) -> str:
    """How many of the values are measurements, where only some are."""
    count = len(_measured(values))
    return f'{NO_BREAK}[{count} of {len(values)}]' if 0 < count < len(values) else ''
