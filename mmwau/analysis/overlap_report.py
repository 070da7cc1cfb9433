"""The filter overlap of checkpoints: tables, pictures, JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import starmap

from matplotlib.figure import Figure
from torch import Tensor

from mmwau.overlap import Measures, filter_overlap, largest_cosine, measure, measure_random
from mmwau.reporting.labels import name_some
from mmwau.reporting.page import Part, Section, Table

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
PAIRS_EXPLAINED = (
    'Each point is a pair of filters of a layer; filters that overlap are put side by side, so '
    'that squares on the diagonal are groups of like filters.'
)
FEATURES_EXPLAINED = (
    'Overlap of a channel: the sum of |correlation| with the other channels of its layer over all '
    'positions of the images, divided by their number with itself. Linear CKA (1905.00414) '
    'measures how similar the outputs of a layer are in two networks; 1 means equal up to rotation '
    'and scale. The matched correlation is the mean over pairs of channels, one to one, that '
    'correlate most (1511.07543); 1 means equal up to the order of channels and their scale.'
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
        matched: The correlation of :func:`mmwau.features.match_channels` with the first
            checkpoint.
    """

    images: int
    overlap: Mapping[str, Mapping[str, float]]
    alike: Mapping[str, Mapping[str, float]]
    matched: Mapping[str, Mapping[str, float]]


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
        having = [each for each in checkpoints.values() if name in each.random]
        # Networks of other widths have other shapes under the same names.
        random = dict.fromkeys(f'{each.random[name].overlap:.4f}' for each in having)
        cells = dict.fromkeys(checkpoints, '')
        for label, each in checkpoints.items():
            if name in each.layers:
                cells[label] = f'{each.layers[name].overlap:.4f} ({each.ratio(name):.2f})'
        rows.append((name, ', '.join(random), *cells.values()))
    title = 'Overlap by layer (ratio to random)'
    return Table(title, ('layer', 'at random', *checkpoints), rows)


def feature_table(features: Features) -> Table:
    """A row for each layer: overlap of its channels, and how alike the first checkpoint's are."""
    first, *others = features.overlap
    rows = []
    for layer in features.overlap[first]:
        cells = [f'{each[layer]:.4f}' for each in features.overlap.values()]
        for alike in (features.alike, features.matched):
            cells += [f'{alike[label][layer]:.3f}' for label in others]
        rows.append((layer, *cells))
    columns = [f'overlap, {label}' for label in features.overlap]
    for measure_name in ('CKA', 'matched correlation'):
        columns += [f'{measure_name} of {label} with {first}' for label in others]
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


def sections(
    checkpoints: Mapping[str, Measured],
    duplicate_cosine: float,
    figures: Mapping[str, Figure],
    features: Features | None,
) -> list[Section]:
    """The parts of the page; the figures are ``'measures'``, ``'heat maps'`` and ``'features'``."""
    files = Table('', ('checkpoint', 'file'), [(k, each.path) for k, each in checkpoints.items()])
    network = network_table(checkpoints, duplicate_cosine)
    parts: dict[str, list[Part]] = {
        'How much the filters overlap': [EXPLAINED, network, figures['measures'], files],
        'Which filters overlap': [PAIRS_EXPLAINED, figures['heat maps']],
    }
    parts['How much the filters overlap'] += left_out_lines(checkpoints)
    if features is not None:
        shown: list[Part] = [FEATURES_EXPLAINED, figures['features'], feature_table(features)]
        parts['How much the features overlap'] = shown
    parts['By layer'] = [comparison_table(checkpoints)] if len(checkpoints) > 1 else []
    for label, each in checkpoints.items():
        parts['By layer'].append(layer_table(label, each, duplicate_cosine))
    return list(starmap(Section, parts.items()))


def results(
    checkpoints: Mapping[str, Measured], duplicate_cosine: float, features: Features | None
) -> dict:
    """All that was measured, per filter, layer and network, for a JSON file."""
    shown = {}
    for label, each in checkpoints.items():
        layers = {}
        for name, filters in each.filters.items():
            arguments = filters.weight, filters.dim, filters.groups
            shape = dict(weight_shape=list(filters.weight.shape), groups=filters.groups)
            one_by_one = dict(
                overlap=_rounded(filter_overlap(*arguments)),
                largest_cosine=_rounded(largest_cosine(*arguments)),
            )
            means = _compared(each.layers[name], each.random[name])
            layers[name] = {**shape, **means, 'filters': one_by_one}
        network = _compared(each.network, each.random_network)
        left_out = dict(each.left_out)
        shown[label] = dict(path=each.path, network=network, layers=layers, left_out=left_out)
    content = {'duplicate_cosine': duplicate_cosine, 'checkpoints': shown}
    if features is not None:
        content['features'] = dict(vars(features))
    return content


def _columns(duplicate_cosine: float) -> tuple[str, ...]:
    return (
        'overlap (at random)',
        'ratio',
        'largest |cos| (at random)',
        f'near-duplicates ≥ {duplicate_cosine:g}',
        'effective rank (at random)',
    )


def _cells(measured: Measures, random: Measures) -> tuple[str, ...]:
    return (
        f'{measured.overlap:.4f} ({random.overlap:.4f})',
        f'{measured.overlap / random.overlap:.2f}',
        f'{measured.largest_cosine:.3f} ({random.largest_cosine:.3f})',
        f'{measured.near_duplicates:.1%}',
        f'{measured.effective_rank:.1f} ({random.effective_rank:.1f})',
    )


def _compared(measured: Measures, random: Measures) -> dict:
    ratio = measured.overlap / random.overlap
    return dict(measured=asdict(measured), at_random=asdict(random), overlap_ratio=ratio)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 6) for value in values.tolist()]
