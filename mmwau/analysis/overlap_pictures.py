"""Pictures of the overlap in checkpoints."""

from collections.abc import Mapping, Sequence
from math import nan

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor

from mmwau.overlap import cosine_matrix
from mmwau.reporting.plots import draw_layers, draw_marks, legend_above, styles, tidy

from .overlap_report import Features, Measured, layer_names


def draw_measures(checkpoints: Mapping[str, Measured]) -> Figure:
    """Draw overlap, largest |cosine| and effective rank of each layer."""
    layers = layer_names(checkpoints)
    figure = Figure(figsize=(12, 1.9 + 0.2 * len(layers)), layout='constrained')
    panels = figure.subplots(1, 3, sharey=True)
    parts = {
        'overlap': 'filter overlap (0: orthogonal)',
        'largest_cosine': 'largest |cosine| of a filter (mean; 1: duplicate)',
        'effective_rank': 'effective rank / its value at random',
    }
    for axes, (measure_name, label) in zip(panels, parts.items(), strict=True):
        relative = measure_name == 'effective_rank'
        values: dict[str, dict[str, float]] = {}
        random: dict[str, set[float]] = {}
        for name, each in checkpoints.items():
            own = {layer: getattr(each.layers[layer], measure_name) for layer in each.layers}
            expected = {layer: getattr(each.random[layer], measure_name) for layer in each.layers}
            values[name] = {k: own[k] / expected[k] for k in own} if relative else own
            for layer, at_random in expected.items():
                random.setdefault(layer, set()).add(1.0 if relative else at_random)
        # A layer that has other shapes in other checkpoints has no mark.
        marks = {layer: found.pop() if len(found) == 1 else nan for layer, found in random.items()}
        draw_layers(axes, layers, values, 'mean overlap', marks)
        axes.set_xlabel(label, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        if relative:  # what lies far below 1 is the exception
            axes.set_xlim(auto=True)
            axes.autoscale(axis='x')
    # The means that it shows are those of the overlap; the tables have the others.
    legend_above(figure, panels[0])
    return figure


def draw_features(features: Features) -> Figure:
    """Draw the overlap of each layer's channels, and how alike the first checkpoint's are."""
    first, *others = features.overlap
    layers = list(features.overlap[first])
    figure = Figure(figsize=(12 if others else 8, 1.9 + 0.2 * len(layers)), layout='constrained')
    panels = figure.subplots(1, 3 if others else 1, sharey=True, squeeze=False)[0]
    draw_layers(panels[0], layers, features.overlap)
    panels[0].set_xlabel('feature overlap: mean |correlation| of channels', fontsize=9)
    parts = {'linear CKA': features.alike, 'matched correlation': features.matched}
    # With one checkpoint there are no more panels.
    for axes, (measure_name, alike) in zip(panels[1:], parts.items(), strict=False):
        # The first takes its colour too, so that each checkpoint has that of the other panels.
        for label, look in styles(alike).items():
            if label != first:
                draw_marks(axes, list(alike[label].values()), range(len(layers)), look)
        axes.set_xlim(0, 1.02)
        tidy(axes)
        axes.set_xlabel(f'{measure_name} with {first} (1: alike)', fontsize=9)
    legend_above(figure, panels[0])
    return figure


def default_heat_maps(checkpoints: Mapping[str, Measured]) -> list[str]:
    """The three layers with the highest overlap relative to random filters, the highest first.

    Layers with fewer than 16 filters are left to those who ask for them, if there are others.
    """
    ratios: dict[str, float] = {}
    few: dict[str, float] = {}
    for name in layer_names(checkpoints):
        having = [each for each in checkpoints.values() if name in each.layers]
        kind = few if having[0].filters[name].shape[0] < 16 else ratios
        kind[name] = max(each.ratio(name) for each in having)
    ratios = ratios or few
    return sorted(ratios, key=ratios.__getitem__, reverse=True)[:3]


def draw_heat_maps(checkpoints: Mapping[str, Measured], layers: Sequence[str]) -> Figure:
    """Draw |cosine| of each filter with each other one, a row for each layer.

    Filters are in the order of a hierarchical clustering (average linkage, distance 1 -
    |cosine|), which puts those side by side that overlap. Of a grouped convolution the first
    group is shown.
    """
    columns = len(checkpoints)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.4 + 3.6 * len(layers)), layout='constrained')
    grid = figure.subplots(len(layers), columns, squeeze=False)
    for row, layer in zip(grid, layers, strict=True):
        maps = {
            label: _clustered(cosine_matrix(filters.weight, filters.dim, filters.groups)[0])
            for label, each in checkpoints.items()
            if (filters := each.filters.get(layer)) is not None
        }
        top = max(float(cosines.max()) for cosines in maps.values())
        for axes, label in zip(row, checkpoints, strict=True):
            axes.set_axis_off()
            if label not in maps:
                axes.text(0.5, 0.5, 'not there', ha='center', transform=axes.transAxes)
                continue
            image = axes.imshow(maps[label], vmin=0, vmax=top, cmap='magma')
            filters = checkpoints[label].filters[layer]
            group = f', group 1 of {filters.groups}' if filters.groups > 1 else ''
            overlap = checkpoints[label].layers[layer].overlap
            told = f'{filters.shape[0]} filters{group}, overlap {overlap:.3f}'
            axes.set_title(f'{label}\n{layer}\n{told}', fontsize=8)
        bar = figure.colorbar(image, ax=list(row), shrink=0.8)
        bar.set_label('|cosine| of two filters', fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def _clustered(cosines: Tensor) -> np.ndarray:
    """The same matrix with rows and columns in the order of a clustering."""
    matrix = cosines.numpy()
    pairs = np.triu_indices(len(matrix), 1)
    order = leaves_list(linkage(1 - matrix[pairs], 'average'))
    return matrix[np.ix_(order, order)]
