"""Pictures of measurements."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from os import PathLike
from typing import Any

import numpy as np
from matplotlib import color_sequences
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, which most colour-blind people can tell apart; grey comes first.
COLOURS = ('#9a9a9a', '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000')
MARKERS = ('o', 'D', 's', '^', 'v', 'P', 'X', '*')
CLASS_COLOURS = color_sequences['tab10']
MIN_SCORE = 0.5


def plot_overlap(
    overlaps: Mapping[str, Mapping[str, float]], random: Mapping[str, float], path: str | PathLike
) -> None:
    """Draw the filter overlap of each layer, one row a layer, one mark for each measurement.

    The overlap depends on the shape of a layer, so that layers can be compared only by what random
    filters have in each.

    Args:
        overlaps: For each measurement's label the overlap by name of the layer, the same layers
            in each.
        random: Overlap to expect of random filters (:func:`mmwau.overlap.random_overlap`), by
            name of the layer.
        path: File to write; its suffix gives the format.
    """
    layers = list(next(iter(overlaps.values())))
    figure = Figure(figsize=(8, 1.6 + 0.2 * len(layers)), layout='constrained')
    axes = figure.add_subplot()
    draw_layers(axes, layers, overlaps, random=random)
    axes.set_xlabel('filter overlap: mean |cosine| between the filters of a layer (0: orthogonal)')
    legend_above(figure, axes)
    figure.savefig(path, dpi=150)


def draw_layers(
    axes: Axes,
    layers: Sequence[str],
    values: Mapping[str, Mapping[str, float]],
    mean_of: str = 'mean',
    random: Mapping[str, float] | None = None,
) -> None:
    """Draw a value of each layer, one row a layer, one mark for each measurement.

    Args:
        axes: Where to draw.
        layers: Names of the layers, from top to bottom.
        values: For each measurement's label the value by name of the layer; a layer may be
            missing. The means are drawn as dashed lines and told in the labels.
        mean_of: What the labels call them.
        random: What random filters have, by name of the layer; None draws nothing.
    """
    for row, layer in enumerate(layers):
        measured = [each[layer] for each in values.values() if layer in each]
        if measured:
            axes.hlines(row, min(measured), max(measured), color='#d0d0d0', zorder=1)
    for label, look in styles(values).items():
        each = values[label]
        rows = [row for row, layer in enumerate(layers) if layer in each]
        mean = sum(each.values()) / len(each)
        shown = f'{label} ({mean_of} {mean:.3f}, dashed)'
        draw_marks(axes, [each[layers[row]] for row in rows], rows, look, zorder=2, label=shown)
        axes.axvline(mean, color=look['color'], linestyle='--', linewidth=1, zorder=0)
    if random is not None:
        expected = [random[layer] for layer in layers]
        line: dict[str, Any] = dict(marker='|', s=90, color='black', linewidth=1.5, zorder=1)
        axes.scatter(expected, range(len(layers)), label='random filters of that shape', **line)
    axes.set_yticks(range(len(layers)), layers, fontsize=8)
    axes.set_ylim(len(layers) - 0.3, -0.7)
    axes.set_xlim(left=0)
    tidy(axes)
    axes.grid(visible=False, axis='y')


def styles(labels: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each of these, the first one grey; after eight they come again."""
    looks = cycle(zip(COLOURS, MARKERS, strict=True))
    return {
        label: dict(color=colour, marker=marker)
        for label, (colour, marker) in zip(labels, looks, strict=False)
    }


def draw_marks(
    axes: Axes, values: Sequence[float], rows: Sequence[int], look: Mapping[str, str], **more: Any
) -> None:
    """Draw hollow marks, one a row, in a look of :func:`styles`."""
    edge: dict[str, Any] = dict(facecolor='none', edgecolor=look['color'], linewidth=1.5)
    axes.scatter(values, rows, s=28, marker=look['marker'], **edge, **more)


def plot_overlap_curve(
    points: Sequence[Mapping[str, float]], expected: float, path: str | PathLike
) -> None:
    """Draw the overlap of a network and its stages over the iterations of a training.

    Args:
        points: For each measurement its iteration as ``step``, and what
            :func:`mmwau.overlap.mean_overlap` gives.
        expected: The network's overlap to expect of random filters.
        path: File to write; its suffix gives the format.
    """
    figure = Figure(figsize=(9, 4.5), layout='constrained')
    axes = figure.add_subplot()
    names = dict.fromkeys(name for point in points for name in point if name != 'step')
    stages = [name for name in names if name != 'overlap']
    for name in names:
        measured = [point for point in points if name in point]
        look: dict[str, Any]
        if name == 'overlap':
            look = dict(color='black', linewidth=3, zorder=3, label='network (mean of layers)')
        else:
            index = stages.index(name)
            # Six colours, then the same ones dashed and with other markers.
            look = dict(color=COLOURS[1 + index % 6], linestyle='-' if index < 6 else '--')
            look |= dict(marker=MARKERS[index % len(MARKERS)], markersize=4)
            look |= dict(linewidth=1.2, label=name.partition('/')[2])
        steps = [point['step'] for point in measured]
        axes.plot(steps, [point[name] for point in measured], **look)
    axes.axhline(
        expected, color='#707070', linestyle=':', zorder=1, label='network, if filters were random'
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel('iterations')
    axes.set_ylabel('filter overlap (0: orthogonal)')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc='outside right center', frameon=False, fontsize=8)
    tidy(axes)
    figure.savefig(path, dpi=150)


def plot_detections(
    samples: Sequence[Mapping], classes: Sequence[str], path: str | PathLike
) -> None:
    """Draw detections on images, four images a row, each class in a colour of its own.

    Args:
        samples: For each image its ``image`` (uint8 array (height, width, 3), RGB), the detected
            ``boxes`` ((n, 4): left, top, right, bottom in pixels), their ``labels`` (indices
            into ``classes``) and ``scores`` in [0, 1], and the annotated boxes ``truth``.
            Detections below :data:`MIN_SCORE` are not drawn.
        classes: Names of at most 10 classes.
        path: File to write; its suffix gives the format.
    """
    columns = min(4, len(samples))
    num_rows = math.ceil(len(samples) / columns)
    figure = Figure(figsize=(3 * columns, 2.9 * num_rows + 0.4), layout='constrained')
    grid = figure.subplots(num_rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, sample in zip(grid, samples, strict=False):
        axes.imshow(sample['image'])
        for box in sample['truth']:
            _draw_box(axes, box, edgecolor='white', linestyle=':', linewidth=1.5)
        for box, label, score in zip(
            sample['boxes'], sample['labels'], sample['scores'], strict=True
        ):
            if score < MIN_SCORE:
                continue
            _draw_box(axes, box, edgecolor=CLASS_COLOURS[label], linewidth=2)
            near_right = box[0] > 0.7 * sample['image'].shape[1]
            x, side = (box[2], 'right') if near_right else (box[0], 'left')
            behind = dict(facecolor=CLASS_COLOURS[label], edgecolor='none', pad=1)
            look: dict[str, Any] = dict(fontsize=7, color='white', bbox=behind)
            text = f'{classes[label]} {score:.2f}'
            axes.text(x, max(box[1], 12) - 2, text, horizontalalignment=side, **look)
    handles = [Patch(color=CLASS_COLOURS[index], label=name) for index, name in enumerate(classes)]
    handles.append(Patch(facecolor='#808080', edgecolor='white', linestyle=':', label='annotated'))
    figure.legend(handles=handles, loc='outside upper center', ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=130)


def legend_above(figure: Figure | SubFigure, axes: Axes, title: str | None = None) -> None:
    """Put the legend of a panel above all panels, in as few rows as fit."""
    handles, labels = axes.get_legend_handles_labels()
    # Characters of the default size that the figure has room for.
    room = 12 * figure.bbox.width / figure.dpi
    columns = next(n for n in range(len(labels), 0, -1) if n == 1 or _width(labels, n) <= room)
    # As many rows with columns that are as long as one another.
    columns = math.ceil(len(labels) / math.ceil(len(labels) / columns))
    look: dict = dict(loc='outside upper center', frameon=False, title=title, title_fontsize=12)
    figure.legend(handles, labels, ncols=columns, **look)


def _width(labels: Sequence[str], columns: int) -> int:
    """Characters from the left to the right of a legend."""
    return sum(6 + max(map(len, column)) for column in np.array_split(labels, columns))


def tidy(axes: Axes) -> None:
    """Leave of the frame what carries ticks, with a light grid behind."""
    axes.grid(color='#eeeeee')
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)


def _draw_box(axes: Axes, box: Sequence[float], **style: Any) -> None:
    left, top, right, bottom = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **style))
