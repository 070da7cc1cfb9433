"""Rows of different lengths, one after another in one flat tensor."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def rows_and_places(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """For each element of the flat tensor its row, and its place in that row.

    Kept for the next call: the lengths stay the same in a training, and ``repeat_interleave``
    wakes all threads.

    Args:
        lengths: Length of each row.

    Returns:
        Two int64 tensors of shape (sum(lengths),) on the CPU, not to be changed.
    """
    sizes = torch.tensor(lengths)
    rows = torch.repeat_interleave(torch.arange(len(lengths)), sizes)
    places = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes)[rows]
    return rows, places
