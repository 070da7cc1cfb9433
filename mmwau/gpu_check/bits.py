"""Bit for bit, what an update has moved."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmwau.core.slices import Layer

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class HeldBits:
    """Compares the parameters of some layers with what they were before an update.

    Args:
        layers: The layers.

    Attributes:
        updates: How many updates were looked at.
        skipped: How many of them were skipped, as by a ``GradScaler`` that met infinity.
    """

    def __init__(self, layers: Mapping[str, Layer] | Iterable[Layer]):
        self.layers = list(layers.values() if isinstance(layers, Mapping) else layers)
        self.updates = self.skipped = 0

    def start(self) -> None:
        """Keep what an update begins with."""
        self._before = [[param.detach().clone() for param, _ in one.tensors] for one in self.layers]

    def check(self, active: Sequence[Tensor], is_skipped: bool = False) -> None:
        """Look at what it has moved.

        Args:
            active: For each layer a bool tensor of shape (num_slices,) on the CPU.
            is_skipped: Whether the update was skipped, so that all is held.

        Raises:
            AssertionError: If held slices have moved, or no active one has.
        """
        num_moved = 0
        for layer, mask, before in zip(self.layers, active, self._before, strict=True):
            for (param, dim), old in zip(layer.tensors, before, strict=True):
                own_dim = None if layer.is_whole else dim
                moved = moved_slices(param.detach(), old, own_dim)
                held_that_moved = int((moved if is_skipped else moved & ~mask).sum())
                if held_that_moved:
                    why = 'was skipped' if is_skipped else 'held them'
                    raise AssertionError(
                        f'{held_that_moved} of {len(moved)} slices of {layer.name} moved in update '
                        f'{self.updates}, which {why}'
                    )
                num_moved += int(moved.sum())
        if not num_moved and not is_skipped:
            raise AssertionError(f'nothing moved in update {self.updates}')
        self.updates += 1
        self.skipped += is_skipped


def moved_slices(tensor: Tensor, before: Tensor, dim: int | None) -> Tensor:
    """Which slices changed by any bit: a bool tensor of shape (num_slices,) on the CPU.

    Args:
        tensor: The tensor.
        before: What it was.
        dim: The dimension on which its slices lie, or None if it is one.
    """
    integers = INTEGERS[tensor.element_size()]
    changed = tensor.view(integers) != before.view(integers)
    slices = changed[None] if dim is None else changed.movedim(dim, 0)
    return slices.reshape(len(slices), -1).any(dim=1).cpu()


def small_network(device: torch.device) -> nn.Sequential:
    """A network whose layers are large enough that the gradients of held slices are skipped."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 1),
    ).to(device)
