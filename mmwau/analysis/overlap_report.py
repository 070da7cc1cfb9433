"""The filter overlap of checkpoints: tables, pictures, JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor

from mmwau.overlap import (
    Measures,
    cosine_matrix,
    filter_overlap,
    largest_cosine,
    measure,
    measure_random,
)
from mmwau.reporting.labels import name_some
from mmwau.reporting.page import Section, Table
from mmwau.reporting.plots import draw_layers, legend_above, styles, tidy

from .filters import Filters

EXPLAINED = (
    'Overlap of a filter: the sum of |cosine| with the other filters of its layer, divided by '
    'their number with itself (RePr, 1811.07275); 0 is orthogonal. It depends on the shape of a '
    'layer: the fewer values a filter has, the more filters overlap by chance. So each number is '
    'shown with that of filters with random directions in a layer of that shape, and with the '
    'ratio of the two; 1 is as at random. A largest |cosine| near 1 means that a filter has a '
    'near-duplicate. The effective rank (Roy & Vetterli 2007) is the number of independent '
    'directions that the filters use. Numbers of a network are means over its layers.'
)
FEATURES_EXPLAINED = (
    'Overlap of a channel: the sum of |correlation| with the other channels of its layer over all '
    'positions of the images, divided by their number with itself. Linear CKA (1905.00414) '
    'measures how similar the outputs of a layer are in two networks; 1 means equal up to rotation '
    'and scale.'
)


@dataclass(frozen=True)
class Measured:
    """What was measured of a checkpoint.

    Args:
        path: The file.
        filters: The convolutions by name.
        layers: Their measures by name.
        random: The measures of random filters of the same shapes, by name.
        left_out: Reasons by name of the convolutions that are left out.
    """

    path: str
    filters: Mapping[str, Filters]
    layers: Mapping[str, Measures]
    random: Mapping[str, Measures]
    left_out: Mapping[str, str]

    @property
    def network(self) -> Measures:
        """Means over the layers."""
        return Measures.mean(list(self.layers.values()))

    @property
    def random_network(self) -> Measures:
        """Means of the random filters over the layers."""
        return Measures.mean(list(self.random.values()))

    def ratio(self, layer: str) -> float:
        """A layer's overlap relative to that of random filters."""
        return self.layers[layer].overlap / self.random[layer].overlap


@dataclass(frozen=True)
class Features:
    """What was measured of the outputs of layers: for each label a value by layer.

    Args:
        images: Number of images.
        overlap: Means of :func:`mmwau.features.channel_overlap`.
        alike: :func:`mmwau.features.linear_cka` with the first checkpoint.
    """

    images: int
    overlap: Mapping[str, Mapping[str, float]]
    alike: Mapping[str, Mapping[str, float]]


def measure_filters(filters: Filters, duplicate_cosine: float) -> tuple[Measures, Measures]:
    """Measure a layer, and random filters of its shape."""
    measured = measure(filters.weight, filters.dim, filters.groups, duplicate_cosine)
    return measured, measure_random(*filters.shape, duplicate_cosine)


def layer_names(checkpoints: Mapping[str, Measured]) -> list[str]:
    """Names of all layers, in the order of the checkpoints."""
    return list(dict.fromkeys(name for each in checkpoints.values() for name in each.layers))


def network_table(checkpoints: Mapping[str, Measured], duplicate_cosine: float) -> Table:
    """A row for each checkpoint: means over its layers."""
    rows = [
        (label, str(len(each.layers)), *_cells(each.network, each.random_network))
        for label, each in checkpoints.items()
    ]
    return Table(
        'Network (means over layers)', ('checkpoint', 'layers', *_columns(duplicate_cosine)), rows
    )


def layer_table(label: str, measured: Measured, duplicate_cosine: float) -> Table:
    """A row for each layer of a checkpoint."""
    rows = []
    for name, filters in measured.filters.items():
        count, values = filters.shape
        shape = f'{count} × {values}' + (f', {filters.groups} groups' if filters.groups > 1 else '')
        rows.append((name, shape, *_cells(measured.layers[name], measured.random[name])))
    return Table(label, ('layer', 'filters × values', *_columns(duplicate_cosine)), rows)


def comparison_table(checkpoints: Mapping[str, Measured]) -> Table:
    """A row for each layer, a column with the overlap for each checkpoint."""
    rows = []
    for name in layer_names(checkpoints):
        random = next(each.random[name] for each in checkpoints.values() if name in each.random)
        cells = [
            f'{each.layers[name].overlap:.4f} ({each.ratio(name):.2f})'
            if name in each.layers
            else ''
            for each in checkpoints.values()
        ]
        rows.append((name, f'{random.overlap:.4f}', *cells))
    title = 'Overlap by layer (ratio to random)'
    return Table(title, ('layer', 'at random', *checkpoints), rows)


def feature_table(features: Features) -> Table:
    """A row for each layer: overlap of its channels, and CKA with the first checkpoint."""
    first, *others = features.overlap
    rows = [
        (
            layer,
            *(f'{each[layer]:.4f}' for each in features.overlap.values()),
            *(f'{features.alike[label][layer]:.3f}' for label in others),
        )
        for layer in features.overlap[first]
    ]
    columns = [f'overlap, {label}' for label in features.overlap]
    columns += [f'CKA of {label} with {first}' for label in others]
    return Table(f'Features on {features.images} images', ('layer', *columns), rows)


def left_out_lines(checkpoints: Mapping[str, Measured]) -> list[str]:
    """Which convolutions are left out, by reason."""
    reasons: dict[str, dict[str, None]] = {}
    for each in checkpoints.values():
        for name, reason in each.left_out.items():
            reasons.setdefault(reason, {})[name] = None
    return [
        f'Left out, since {reason}: {name_some(list(names), 12)}'
        for reason, names in reasons.items()
    ]


def draw_measures(checkpoints: Mapping[str, Measured]) -> Figure:
    """Draw overlap, largest |cosine| and effective rank of each layer."""
    layers = layer_names(checkpoints)
    figure = Figure(figsize=(14, 1.9 + 0.2 * len(layers)), layout='constrained')
    panels = figure.subplots(1, 3, sharey=True)
    parts = {
        'overlap': 'filter overlap (0: orthogonal)',
        'largest_cosine': 'largest |cosine| of a filter (mean; 1: duplicates)',
        'effective_rank': 'effective rank / its value at random',
    }
    for axes, (measure_name, label) in zip(panels, parts.items(), strict=True):
        relative = measure_name == 'effective_rank'
        values, random = {}, {}
        for name, each in checkpoints.items():
            own = {layer: getattr(each.layers[layer], measure_name) for layer in each.layers}
            expected = {layer: getattr(each.random[layer], measure_name) for layer in each.layers}
            values[name] = {k: own[k] / expected[k] for k in own} if relative else own
            random.update(dict.fromkeys(expected, 1.0) if relative else expected)
        draw_layers(axes, layers, values, 'mean overlap', random)
        axes.set_xlabel(label)
        if relative:  # what lies far below 1 is the exception
            axes.set_xlim(auto=True)
            axes.autoscale(axis='x')
    # The means that it shows are those of the overlap; the tables have the others.
    legend_above(figure, panels[0])
    return figure


def draw_features(features: Features) -> Figure:
    """Draw the overlap of each layer's channels, and CKA with the first checkpoint."""
    first, *others = features.overlap
    layers = list(features.overlap[first])
    figure = Figure(figsize=(12 if others else 8, 1.9 + 0.2 * len(layers)), layout='constrained')
    panels = figure.subplots(1, 2 if others else 1, sharey=True, squeeze=False)[0]
    draw_layers(panels[0], layers, features.overlap)
    panels[0].set_xlabel('feature overlap: mean |correlation| between channels')
    if others:
        # The first takes its colour too, so that each checkpoint has that of the other panel.
        for (label, values), (colour, marker) in zip(
            features.alike.items(), styles(), strict=False
        ):
            if label != first:
                panels[1].scatter(list(values.values()), range(len(layers)), facecolor='none',
                                  edgecolor=colour, marker=marker, s=28, linewidth=1.5)  # fmt: skip
        panels[1].set_xlim(0, 1.02)
        tidy(panels[1])
        panels[1].set_xlabel(f'linear CKA with {first} (1: alike)')
    legend_above(figure, panels[0])
    return figure


def default_heat_maps(checkpoints: Mapping[str, Measured]) -> list[str]:
    """The three layers with the highest overlap relative to random filters, the highest first.

    Layers with fewer than 16 filters are left to those who ask for them, if there are others.
    """
    ratios, few = {}, {}
    for name in layer_names(checkpoints):
        having = [each for each in checkpoints.values() if name in each.layers]
        kind = few if having[0].filters[name].shape[0] < 16 else ratios
        kind[name] = max(each.ratio(name) for each in having)
    ratios = ratios or few
    return sorted(ratios, key=ratios.get, reverse=True)[:3]


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
            axes.set_title(
                f'{label}\n{layer}\n{filters.shape[0]} filters{group}, overlap {overlap:.3f}',
                fontsize=8,
            )
        bar = figure.colorbar(image, ax=list(row), shrink=0.8)
        bar.set_label('|cosine| of two filters', fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def sections(
    checkpoints: Mapping[str, Measured],
    duplicate_cosine: float,
    figures: Mapping[str, Figure],
    features: Features | None,
) -> list[Section]:
    """The parts of the page.

    Args:
        checkpoints: By label.
        duplicate_cosine: See :func:`mmwau.overlap.measure`.
        figures: ``'measures'``, ``'heat maps'`` and, with features, ``'features'``.
        features: None if they were not measured.
    """
    files = Table('', ('checkpoint', 'file'), [(k, each.path) for k, each in checkpoints.items()])
    parts = [
        Section(
            'How much the filters overlap',
            [EXPLAINED, network_table(checkpoints, duplicate_cosine), figures['measures'], files,
             *left_out_lines(checkpoints)],
        ),
        Section(
            'Which filters overlap',
            ['Each point is a pair of filters of a layer; filters that overlap are put side by '
             'side, so that squares on the diagonal are groups of like filters.',
             figures['heat maps']],
        ),
    ]  # fmt: skip
    if features is not None:
        parts.append(
            Section(
                'How much the features overlap',
                [FEATURES_EXPLAINED, figures['features'], feature_table(features)],
            )
        )
    tables = [layer_table(label, each, duplicate_cosine) for label, each in checkpoints.items()]
    if len(checkpoints) > 1:
        tables.insert(0, comparison_table(checkpoints))
    parts.append(Section('By layer', tables))
    return parts


def results(
    checkpoints: Mapping[str, Measured], duplicate_cosine: float, features: Features | None
) -> dict:
    """All that was measured, per filter, layer and network, for a JSON file."""
    shown = {}
    for label, each in checkpoints.items():
        layers = {}
        for name, filters in each.filters.items():
            arguments = filters.weight, filters.dim, filters.groups
            layers[name] = {
                'weight_shape': list(filters.weight.shape),
                'groups': filters.groups,
                'measured': asdict(each.layers[name]),
                'at_random': asdict(each.random[name]),
                'overlap_ratio': each.ratio(name),
                'filters': {
                    'overlap': _rounded(filter_overlap(*arguments)),
                    'largest_cosine': _rounded(largest_cosine(*arguments)),
                },
            }
        shown[label] = {
            'path': each.path,
            'network': {
                'measured': asdict(each.network),
                'at_random': asdict(each.random_network),
                'overlap_ratio': each.network.overlap / each.random_network.overlap,
            },
            'layers': layers,
            'left_out': dict(each.left_out),
        }
    content = {'duplicate_cosine': duplicate_cosine, 'checkpoints': shown}
    if features is not None:
        content['features'] = {
            field.name: getattr(features, field.name) for field in fields(features)
        }
    return content


def _columns(duplicate_cosine: float) -> tuple[str, ...]:
    return (
        'overlap (at random)', 'ratio', 'largest |cos| (at random)',
        f'near-duplicates ≥ {duplicate_cosine:g}', 'effective rank (at random)',
    )  # fmt: skip


def _cells(measured: Measures, random: Measures) -> tuple[str, ...]:
    return (
        f'{measured.overlap:.4f} ({random.overlap:.4f})',
        f'{measured.overlap / random.overlap:.2f}',
        f'{measured.largest_cosine:.3f} ({random.largest_cosine:.3f})',
        f'{measured.near_duplicates:.1%}',
        f'{measured.effective_rank:.1f} ({random.effective_rank:.1f})',
    )


def _clustered(cosines: Tensor) -> np.ndarray:
    """The same matrix with rows and columns in the order of a clustering."""
    matrix = cosines.numpy()
    pairs = np.triu_indices(len(matrix), 1)
    order = leaves_list(linkage(1 - matrix[pairs], 'average'))
    return matrix[np.ix_(order, order)]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
