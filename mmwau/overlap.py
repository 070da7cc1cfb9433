"""How much the filters of a network overlap."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .targets import filter_dim


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
        Float32 tensor of shape (filters,), each in [0, 1); larger means more overlap. A filter
        that is all zero overlaps with no other.
    """
    if dim == 1:  # transposed: (inputs, filters of one group, ...), groups lie on the inputs
        per_group = weight.unflatten(0, (groups, -1)).transpose(1, 2)
    else:
        per_group = weight.unflatten(0, (groups, -1))
    rows = functional.normalize(per_group.flatten(2).float(), dim=2)
    cosines = (rows @ rows.transpose(1, 2)).abs()
    cosines.diagonal(dim1=1, dim2=2).zero_()
    return cosines.sum(dim=2).div(rows.shape[1]).flatten()


def layer_overlap(convolution: nn.Module) -> float:
    """Overlap of a layer: the mean of :func:`filter_overlap` over its filters."""
    overlap = filter_overlap(convolution.weight, filter_dim(convolution), convolution.groups)
    return overlap.mean().item()
