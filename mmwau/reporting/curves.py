"""Curves of arms: the mean over seeds with its spread, and few enough lines in a panel to read."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from .plots import styles
from .statistics import Step, summarise_curves

# Lines in a panel.
MOST_LINES = 6
# A curve with fewer points than that shows them, and no more than a hint of what lies between.
FEW_POINTS = 10
# Sparse markers, by which lines are told apart without their colour.
MARKERS_OF_A_LINE = 8
# Between the marks of two arms that were measured at the same point of training, in points.
MARKS_APART = 5
OVERLAP = 'filter overlap (0: orthogonal)'
NOTE: dict = dict(loc='right', fontsize=8, color='#606060')


def in_panels(arms: Sequence[str]) -> list[list[str]]:
    """The arms of each panel: at most six, the first one in all of them, for comparison."""
    first, *others = arms
    panels = max(1, math.ceil(len(others) / (MOST_LINES - 1)))
    size = max(1, math.ceil(len(others) / panels))
    return [[first, *others[size * index : size * (index + 1)]] for index in range(panels)]


def draw_means(axes: Axes, curves: Mapping[str, Sequence[Mapping[Step, float]]]) -> str:
    """Draw the mean over the runs of each arm, with a band of ± their standard deviation.

    Where all curves have fewer than :data:`FEW_POINTS` points, marks with error bars stand in the
    place of lines and bands. Those of arms that were measured at the same point of training stand
    side by side.

    Args:
        axes: Where to draw.
        curves: For each arm the curve of each run, points by iteration or epoch. Drawn is what all
            runs of the arm have.

    Returns:
        What is to be said of it: what the band or bars are; ``''`` for nothing.
    """
    found = {arm: summarise_curves([run for run in runs if run]) for arm, runs in curves.items()}
    few = max(map(len, found.values()), default=0) < FEW_POINTS
    middle = (len(found) - 1) / 2
    for place, (arm, style) in enumerate(styles(found).items()):
        steps = list(found[arm])
        means = np.array([one.mean for one in found[arm].values()])
        spread = np.array([one.std or 0.0 for one in found[arm].values()])
        look: dict = dict(style, label=arm, markersize=5, markerfacecolor='white', zorder=3)
        if few:
            shift = ((place - middle) * MARKS_APART / 72, 0)
            moved = axes.transData + ScaledTranslation(*shift, axes.figure.dpi_scale_trans)
            look |= dict(linestyle=':', linewidth=1, transform=moved)
            bars: dict = dict(ecolor=style['color'], elinewidth=1.2, transform=moved, zorder=2)
            axes.plot(steps, means, **look)
            axes.errorbar(steps, means, yerr=spread, fmt='none', **bars)
            # Limits don't follow what is moved.
            for ends in (means - spread, means + spread):
                axes.update_datalim(np.column_stack([steps, ends]))
        else:
            every = max(1, len(means) // MARKERS_OF_A_LINE)
            # Not all arms at the same points, where their markers would hide each other.
            look |= dict(linewidth=1.6, markevery=(place * every // len(found), every))
            axes.plot(steps, means, **look)
            band: dict = dict(color=style['color'], alpha=0.18, linewidth=0, zorder=1)
            axes.fill_between(steps, means - spread, means + spread, **band)
    if few:
        axes.margins(x=0.1)
        axes.autoscale_view()
    notes = ['arms side by side'] if few and len(found) > 1 else []
    if any(one.std is not None for points in found.values() for one in points.values()):
        notes.append(f'{"bars" if few else "bands"}: ± std over the seeds')
    return '; '.join(notes)
