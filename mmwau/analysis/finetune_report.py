"""How small networks get that lose filters for good and train on: tables, pictures, a page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from statistics import fmean

from matplotlib.figure import Figure

from mmwau.reporting.page import Section, Table
from mmwau.reporting.plots import legend_above, styles, tidy

from .finetuning import BYTES, MULTIPLICATIONS, PARAMETERS, SIZES
from .prune_report import (
    HOLLOW,
    NO_VALUE,
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
    """

    epochs: int = 1
    tolerance: float = 0.0

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
            row = [f'{order}, {label}', self.text(self.whole(label))]
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
            f"is lost by more than {percent(self.tolerance)} of the whole network's; and what is "
            'left then, also relative to the whole network.',
            [
                'order, checkpoint',
                'whole',
                'filters removed',
                self.metric,
                *HEADINGS.values(),
                'lost with',
            ],
            rows,
        )

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
                for label, style in styles(self.curves.checkpoints).items():
                    fractions = self.curves.fractions
                    left = [100 * self.share(label, order, each, kind) for each in fractions]
                    values = [mean(self.relative(label, order, each)) for each in fractions]
                    axes.plot([100, *left], [1.0, *values], label=label, **HOLLOW, **style)
                axes.set_xlabel(f'{HEADINGS[kind]} left (%)')
                axes.set_xlim(0, 103)
                tidy(axes)
        for axes in panels[:, 0]:
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
            axes.set_ylabel(f"{self.metric},\npart of the whole network's")
        legend_above(figure, panels[0][0])
        return figure

    def sections(self, measured: Table, left_out: Mapping[str, str]) -> list[Section]:
        """The parts of the page; takes the arguments of the base class."""
        how = (
            'Filters are removed for good, in one go and from every layer, with what belongs to '
            'them in other layers; layers whose outputs are added lose the same filters. Each '
            f'network begins with the weights of its checkpoint and is trained on for '
            f'{self.epochs} epochs with the config, its learning rate beginning anew; the whole '
            'network is not trained on. Multiplications are those for the first image of the test '
            'data. Dotted: what may be lost. Grey: the 20 to 40 % of its original size to which '
            "the paper's abstract says a network can be compressed.",
            *ORDERS_EXPLAINED,
        )
        warnings = self.warnings()
        return [
            *([Section('Warnings', warnings)] if warnings else []),
            Section('How to read this', how),
            Section(
                'What is left of the networks',
                [self.limit_table(), self.draw_sizes(), self.size_table()],
            ),
            measured_section(measured, left_out),
        ]

    def _trained(self) -> str:
        return f'{self.epochs} {"epoch" if self.epochs == 1 else "epochs"} of training afterwards'

    def _size_text(self, label: str, order: str, fraction: float, kind: str) -> str:
        value, share = (get(label, order, fraction, kind) for get in (self.size, self.share))
        text = f'{value:,.0f}' if kind == PARAMETERS else f'{value / 1e6:,.3g} M'
        return f'{text}{"B" if kind == BYTES else ""} ({percent(share)})'
