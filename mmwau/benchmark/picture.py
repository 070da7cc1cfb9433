"""The picture of the benchmark: training steps by network, and how cost grows."""

from collections.abc import Mapping, Sequence
from os import PathLike

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmwau.reporting.plots import COLOURS, MARKERS, tidy

from .arms import ARMS, BASELINE, WALL
from .report import first_steps
from .rounds import Ratio

BACKWARD = 'backward pass, ratio to baseline'


def draw(results: Mapping, path: str | PathLike) -> None:
    """Draw the networks' training steps, and how cost grows."""
    growth = results.get('growth', {})
    figure = Figure(figsize=(11, 8 if growth else 4.5), layout='constrained')
    axes = figure.subplots(2, 2) if growth else [[figure.subplots()]]
    _draw_networks(axes[0][0], results['networks'])
    if growth:
        _draw_lines(axes[0][1], growth['width'], 'channels (28x28, batch 8)', BACKWARD)
        axes[0][1].set_xscale('log', base=2)
        ratio = 'update_ratio (3x3 convolution, 256 channels)'
        _draw_lines(axes[1][0], growth['ratio'], ratio, BACKWARD)
        step = 'selection and optimizer step, ratio to baseline'
        _draw_lines(axes[1][1], growth['layers'], 'layers (3x3, 32 channels each)', step)
        axes[1][1].set_xscale('log')
        for panel, ticks in ((axes[0][1], growth['width']), (axes[1][1], growth['layers'])):
            places = [float(place) for place in next(iter(ticks.values()))]
            panel.set_xticks(places, [f'{place:g}' for place in places])
            panel.minorticks_off()
    machine = results['machine']
    title = f'{machine["device"]}, {machine["threads"]} threads, torch {machine["torch"]}; '
    figure.suptitle(title + 'medians with 95 % intervals', fontsize=10)
    figure.savefig(path, dpi=150)


def _draw_networks(axes: Axes, networks: Mapping) -> None:
    tables = [first_steps(network) for network in networks.values()]
    arms = [arm for arm in ARMS if arm != BASELINE and arm in tables[0]]
    for number, arm in enumerate(arms):
        rows = [row - 0.4 + 0.8 * (number + 0.5) / len(arms) for row in range(len(tables))]
        ratios = [table[arm]['ratios'][WALL] for table in tables]
        look: dict = dict(color=COLOURS[(number + 1) % len(COLOURS)], markersize=4, linewidth=1.5)
        look |= dict(fmt=MARKERS[number % len(MARKERS)], xerr=_errors(ratios), label=arm)
        axes.errorbar([ratio.median for ratio in ratios], rows, **look)
    half = [1 - network['weight_gradients'].median / 2 for network in networks.values()]
    label = '1 - half of the weight gradients'
    axes.scatter(half, range(len(half)), marker='|', s=250, color='black', label=label)
    axes.set_yticks(range(len(networks)), list(networks), fontsize=8)
    axes.set_ylim(len(networks) - 0.5, -0.5)
    axes.axvline(1, color='#555555', linewidth=1)
    axes.set_xlabel('training step, ratio to baseline')
    axes.legend(fontsize=7, frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=3)
    tidy(axes)


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
    axes.legend(fontsize=8, frameon=False)
    tidy(axes)


def _errors(ratios: Sequence[Ratio]) -> list[list[float]]:
    """How far the intervals reach to both sides of the medians."""
    lower = [ratio.median - ratio.low for ratio in ratios]
    return [lower, [ratio.high - ratio.median for ratio in ratios]]
