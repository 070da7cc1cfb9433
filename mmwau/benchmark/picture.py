"""The picture of the benchmark: training steps by network, and how cost grows."""

from collections.abc import Mapping, Sequence
from os import PathLike

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmwau.reporting.plots import COLOURS, MARKERS, legend_above, tidy

from .arms import ARMS, BASELINE, WALL
from .report import first_steps
from .rounds import Ratio

BACKWARD = 'backward pass, ratio to baseline'


def draw(results: Mapping, path: str | PathLike) -> None:
    """Draw the networks' training steps, and how cost grows."""
    growth, networks = results.get('growth', {}), results['networks']
    heights = [1.2 + 0.75 * len(networks), *([4] if growth else [])]
    figure = Figure(figsize=(12, sum(heights)), layout='constrained')
    places: list = [['networks'] * 3, *([['width', 'ratio', 'layers']] if growth else [])]
    panels = figure.subplot_mosaic(places, height_ratios=heights)
    _draw_networks(panels['networks'], networks)
    if growth:
        _draw_lines(panels['width'], growth['width'], 'channels (28x28, batch 8)', BACKWARD)
        panels['width'].set_xscale('log', base=2)
        ratio = 'update_ratio (3x3 convolution, 256 channels)'
        _draw_lines(panels['ratio'], growth['ratio'], ratio, BACKWARD)
        step = 'selection and optimizer step,\nratio to baseline'
        _draw_lines(panels['layers'], growth['layers'], 'layers (3x3, 32 channels each)', step)
        panels['layers'].set_xscale('log')
        for name in ('width', 'layers'):
            steps = [float(place) for place in next(iter(growth[name].values()))]
            panels[name].set_xticks(steps, [f'{step:g}' for step in steps])
            panels[name].minorticks_off()
    machine = results['machine']
    title = f'{machine["device"]}, {machine["threads"]} threads, torch {machine["torch"]}; '
    legend_above(figure, panels['networks'], title + 'medians with 95 % intervals')
    figure.savefig(path, dpi=130)


def _draw_networks(axes: Axes, networks: Mapping) -> None:
    tables = [first_steps(network) for network in networks.values()]
    arms = [arm for arm in ARMS if arm != BASELINE and arm in tables[0]]
    for number, arm in enumerate(arms):
        rows = [row - 0.4 + 0.8 * (number + 0.5) / len(arms) for row in range(len(tables))]
        ratios = [table[arm]['ratios'][WALL] for table in tables]
        look: dict = dict(color=COLOURS[(number + 1) % len(COLOURS)], markersize=5, linewidth=1.5)
        look |= dict(fmt=MARKERS[number % len(MARKERS)], xerr=_errors(ratios), label=arm)
        axes.errorbar([ratio.median for ratio in ratios], rows, **look)
    half = [1 - network['weight_gradients'].median / 2 for network in networks.values()]
    middle = np.arange(len(half))
    label = '1 - half of the weight gradients'
    axes.vlines(half, middle - 0.4, middle + 0.4, color='black', zorder=1, label=label)
    for row in range(0, len(half), 2):
        axes.axhspan(row - 0.5, row + 0.5, color='#f3f3f3', zorder=0)
    axes.set_yticks(range(len(networks)), list(networks))
    axes.set_ylim(len(networks) - 0.5, -0.5)
    axes.axvline(1, color='#555555', linewidth=1)
    axes.set_xlabel('training step, ratio to baseline')
    tidy(axes)
    axes.grid(visible=False, axis='y')


def _draw_lines(axes: Axes, lines: Mapping[str, Mapping], x_label: str, y_label: str) -> None:
    for (label, points), colour, marker in zip(lines.items(), COLOURS[1:], MARKERS, strict=False):
        ratios = list(points.values())
        look: dict = dict(color=colour, marker=marker, markersize=5, linewidth=1.5)
        look |= dict(yerr=_errors(ratios), label=label)
        axes.errorbar(list(points), [ratio.median for ratio in ratios], **look)
    axes.axhline(1, color='#555555', linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    above: dict = dict(loc='lower center', bbox_to_anchor=(0.5, 1), ncols=len(lines))
    axes.legend(fontsize=9, frameon=False, handlelength=1.5, columnspacing=1.2, **above)
    tidy(axes)


def _errors(ratios: Sequence[Ratio]) -> list[list[float]]:
    """How far the intervals reach to both sides of the medians."""
    lower = [ratio.median - ratio.low for ratio in ratios]
    return [lower, [ratio.high - ratio.median for ratio in ratios]]
