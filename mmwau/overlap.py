"""How much the filters of a convolution overlap, and how much random ones would."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from mmwau.core.slices import Convolution

from .targets import filter_dim

# Filters are compared with all others in blocks of so many, which bounds the memory.
BLOCK = 1024
# Before the names of stages. No log key may begin with another one and a slash: to some loggers a
# slash is a folder.
STAGE_OVERLAP = 'stage_overlap/'


@torch.no_grad()
def filter_overlap(weight: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Overlap of every filter of a convolution with the others, as RePr measures it.

    With the flattened filters as the rows of ``W`` and each divided by its norm,
    ``P = |W W^T - I|`` and ``O[f] = sum(P[f]) / n`` (Prakash et al., RePr, 1811.07275, section
    4, "inter-filter orthogonality"). Filters of different groups see different inputs, so that
    each group is measured by itself, ``n`` being the number of filters in one group.

    Args:
        weight: Weight of a convolution, of any float dtype, with at least 2 dimensions.
        dim: Dimension on which the filters lie: 0, or 1 for a transposed convolution.
        groups: Number of groups.

    Returns:
        Float32 tensor of shape (filters,), each in [0, 1); larger means more overlap. Only the
        directions of filters count, however small or large their values. A filter that is all
        zero overlaps with no other, nor does the only one of its group.
    """
    rows = _unit_filters(weight, dim, groups)
    sums = torch.cat([block.sum(dim=2) for block in _cosine_blocks(rows)], dim=1)
    return sums.div(rows.shape[1]).flatten()


@torch.no_grad()
def largest_cosine(weight: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Largest absolute cosine of every filter with another one of its group.

    Takes the arguments of :func:`filter_overlap`. It is 1 for a filter that has a copy of itself,
    whatever the copy's sign and scale.

    Returns:
        Float32 tensor of shape (filters,), each in [0, 1].
    """
    rows = _unit_filters(weight, dim, groups)
    largest = torch.cat([block.amax(dim=2) for block in _cosine_blocks(rows)], dim=1)
    return largest.flatten().clamp(max=1)


@torch.no_grad()
def cosine_matrix(weight: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Absolute cosine of every filter with every other one of its group.

    Takes the arguments of :func:`filter_overlap`.

    Returns:
        Float32 tensor of shape (groups, filters of a group, filters of a group), 0 on the diagonal.
    """
    return torch.cat(list(_cosine_blocks(_unit_filters(weight, dim, groups))), dim=1).clamp(max=1)


@torch.no_grad()
def spectral_entropy(weight: Tensor, dim: int = 0, groups: int = 1) -> tuple[float, float]:
    """Entropy of the singular values of a layer's filters, and the effective rank from it.

    With the singular values ``s`` of the matrix of filters, each divided by its norm as for the
    overlap, ``p = s / sum(s)`` and ``H = -sum(p log p)``; ``exp(H)`` is the effective rank (Roy &
    Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007, section
    2). ``n`` orthogonal filters have rank ``n``, copies of one filter rank 1.

    Takes the arguments of :func:`filter_overlap`.

    Returns:
        ``H`` divided by the largest it can be, ``log(min(filters, values of a filter))``, in [0,
        1]; and the effective rank, in [1, min(filters, values)]. Means over the groups. Both are
        0 if all filters are zero.
    """
    rows = _unit_filters(weight, dim, groups).double()
    # Squares of the singular values, from the smaller one of the two products.
    wide = rows.shape[1] <= rows.shape[2]
    products = rows @ rows.transpose(1, 2) if wide else rows.transpose(1, 2) @ rows
    values = torch.linalg.eigvalsh(products).clamp(min=0).sqrt()
    shares = values / values.sum(dim=1, keepdim=True).clamp(min=1e-300)
    entropy = torch.special.entr(shares).sum(dim=1)
    some = values.sum(dim=1) > 0
    largest = math.log(values.shape[1])
    relative = entropy / largest if largest else torch.ones_like(entropy)
    return (relative * some).mean().item(), (entropy.exp() * some).mean().item()


def expected_overlap(filters: int, values: int) -> float:
    """Overlap to expect of filters whose directions are drawn at random.

    The absolute cosine between two random directions in ``d`` dimensions is ``gamma(d/2) /
    (sqrt(pi) gamma((d+1)/2))`` in the mean (its square has the distribution Beta(1/2, (d-1)/2)),
    which falls like ``sqrt(2 / (pi d))``. A filter meets ``n - 1`` others and is divided by ``n``.

    Args:
        filters: Number of filters in a group, ``n``.
        values: Number of values of a filter, ``d``: its input channels times its size.

    Returns:
        The expected mean of :func:`filter_overlap`, in [0, 1).
    """
    cosine = math.exp(math.lgamma(values / 2) - math.lgamma((values + 1) / 2)) / math.sqrt(math.pi)
    return cosine * (filters - 1) / filters


@dataclass(frozen=True)
class Measures:
    """What is measured of the filters of a layer.

    Args:
        overlap: Mean of :func:`filter_overlap`.
        largest_cosine: Mean of :func:`largest_cosine`.
        near_duplicates: Share of the filters whose largest absolute cosine reaches a threshold, in
            [0, 1].
        effective_rank: See :func:`spectral_entropy`.
        spectral_entropy: See :func:`spectral_entropy`.
    """

    overlap: float
    largest_cosine: float
    near_duplicates: float
    effective_rank: float
    spectral_entropy: float

    @classmethod
    def mean(cls, layers: list['Measures']) -> 'Measures':
        """Mean of each measure over layers: that of a network."""
        columns = zip(*map(astuple, layers), strict=True)
        return cls(*(sum(column) / len(layers) for column in columns))


def measure(
    weight: Tensor, dim: int = 0, groups: int = 1, duplicate_cosine: float = 0.9
) -> Measures:
    """Measure the filters of a layer.

    Takes the arguments of :func:`filter_overlap`, and ``duplicate_cosine``, the absolute cosine
    from which on two filters are near-duplicates, in (0, 1].
    """
    largest = largest_cosine(weight, dim, groups)
    entropy, rank = spectral_entropy(weight, dim, groups)
    return Measures(
        overlap=filter_overlap(weight, dim, groups).mean().item(),
        largest_cosine=largest.mean().item(),
        near_duplicates=(largest >= duplicate_cosine).float().mean().item(),
        effective_rank=rank,
        spectral_entropy=entropy,
    )


@lru_cache(maxsize=512)
def measure_random(filters: int, values: int, duplicate_cosine: float = 0.9) -> Measures:
    """What the measures are for filters drawn at random: the baseline for a layer of that shape.

    The overlap is :func:`expected_overlap`; the others, for which there is no short formula, are
    means over draws of normally distributed filters with a seed of their own: up to 20 draws for
    small layers, and one for large ones, whose many filters make a mean by themselves.

    Args:
        filters: Number of filters in a group.
        values: Number of values of a filter.
        duplicate_cosine: See :func:`measure`.
    """
    generator = torch.Generator().manual_seed(0)
    count = min(20, max(1, 200_000 // (filters * values)))
    drawn = [torch.randn(filters, values, generator=generator) for _ in range(count)]
    mean = Measures.mean([measure(one, duplicate_cosine=duplicate_cosine) for one in drawn])
    return replace(mean, overlap=expected_overlap(filters, values))


def layer_overlap(convolution: Convolution) -> float:
    """Overlap of a layer: the mean of :func:`filter_overlap` over its filters."""
    overlap = filter_overlap(convolution.weight, filter_dim(convolution), convolution.groups)
    return overlap.mean().item()


def random_overlap(convolution: Convolution) -> float:
    """Overlap to expect of random filters in a layer of that shape (:func:`expected_overlap`)."""
    return expected_overlap(*layer_shape(convolution))


def layer_shape(convolution: Convolution) -> tuple[int, int]:
    """Number of filters in a group of a layer, and of values in a filter."""
    return shape_of_filters(convolution.weight, filter_dim(convolution), convolution.groups)


def shape_of_filters(weight: Tensor, dim: int = 0, groups: int = 1) -> tuple[int, int]:
    """Number of filters in a group, and of values in a filter; see :func:`filter_overlap`."""
    filters = weight.shape[dim] if dim == 1 else weight.shape[0] // groups
    return filters, weight.numel() // (filters * groups)


def mean_overlap(layers: Mapping[str, float]) -> dict[str, float]:
    """Overlap of a network and of each of its stages, from that of its layers.

    Args:
        layers: Overlap by name of the layer.

    Returns:
        The mean over all layers as ``'overlap'``, and that over each stage as
        ``'stage_overlap/backbone.layer1'``, a stage being what shares the first two segments of
        its names.
    """
    together = {'overlap': list(layers.values())}
    for name, overlap in layers.items():
        stage = '.'.join(name.split('.')[:2])
        together.setdefault(f'{STAGE_OVERLAP}{stage}', []).append(overlap)
    return {name: sum(values) / len(values) for name, values in together.items()}


def filter_rows(weight: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Flattened filters, of shape (groups, filters of a group, values of a filter).

    Takes the arguments of :func:`filter_overlap`.
    """
    per_group = weight.unflatten(0, (groups, -1))
    if dim == 1:  # transposed: (inputs, filters of one group, ...), groups lie on the inputs
        per_group = per_group.transpose(1, 2)
    return per_group.flatten(2)


def unit_rows(rows: Tensor) -> Tensor:
    """Divide each row by its norm, whatever its scale.

    Args:
        rows: Float tensor of shape (..., values).

    Returns:
        Tensor of the same shape with rows of norm 1, float64 if ``rows`` is and float32
        otherwise. A row that is all zero stays so; one with a value that is not finite is nan.
    """
    rows = rows if rows.dtype == torch.float64 else rows.float()
    return functional.normalize(rows / magnitude(rows, -1), dim=-1)


def magnitude(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The power of two next to the largest absolute value, or 1 where all values are zero.

    Divided by it, values have squares that neither underflow nor overflow, and lose no digits.

    Args:
        values: Float32 or float64 tensor.
        dim: The dimensions over which the largest is taken; they are kept with size 1.

    Returns:
        Tensor of the dtype of ``values``, which has no gradient.
    """
    power = values.detach().abs().amax(dim, keepdim=True).log2().floor().exp2()
    return power.masked_fill(power == 0, 1)


def _unit_filters(weight: Tensor, dim: int, groups: int) -> Tensor:
    """Filters of norm 1 in float32, see :func:`filter_rows`."""
    return unit_rows(filter_rows(weight, dim, groups)).float()


def _cosine_blocks(rows: Tensor) -> Iterator[Tensor]:
    """Absolute cosines of some filters with all of their group, each one's with itself being 0."""
    for start in range(0, rows.shape[1], BLOCK):
        block = (rows[:, start : start + BLOCK] @ rows.transpose(1, 2)).abs_()
        block.diagonal(start, dim1=1, dim2=2).zero_()
        yield block
