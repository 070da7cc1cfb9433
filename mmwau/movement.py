"""How far the filters of a layer move: angles between their directions at two times.

Overlap depends only on the directions of filters, and behind a normalisation so does what a filter
computes. Random directions overlap least; the overlap grows as training leads them away. So filters
that moved less overlap less, and what a method does to the overlap shows in comparison with a run
that moved as far.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmwau.core.slices import Convolution

from .overlap import filter_rows, unit_rows
from .targets import filter_dim


@torch.no_grad()
def filter_directions(weight: Tensor, dim: int = 0, groups: int = 1) -> Tensor:
    """Directions of the filters of a convolution.

    Takes the arguments of :func:`mmwau.overlap.filter_overlap`.

    Returns:
        Float32 tensor of shape (filters, values of a filter) with rows of norm 1; a filter that is
        all zero stays so.
    """
    return unit_rows(filter_rows(weight, dim, groups).flatten(0, 1)).float()


@torch.no_grad()
def angles(directions: Tensor, others: Tensor) -> Tensor:
    """Angle between each filter and itself at another time.

    Args:
        directions: What :func:`filter_directions` returned at one time.
        others: The same of another time.

    Returns:
        Float32 tensor of shape (filters,), in radians in [0, pi]; pi/2 where one of the two is all
        zero. It is exactly 0 for a filter that kept its weights, and resolves small angles, for
        which a cosine has too few digits.
    """
    apart, together = (directions - others).norm(dim=1), (directions + others).norm(dim=1)
    return 2 * torch.atan2(apart, together)


class Movement:
    """How far the filters of a network have moved since the start of training.

    It keeps two copies of the weights: their directions at the start, and at the last measurement.

    Args:
        convolutions: The convolutions to measure, by name, as they are at the start.
    """

    def __init__(self, convolutions: Mapping[str, Convolution]):
        self._convolutions = convolutions
        self._start = self._last = self._directions()
        self._path_length: dict[str, Tensor | float] = dict.fromkeys(convolutions, 0.0)

    def measure(self) -> tuple[float, float]:
        """Measure the filters as they are now.

        Returns:
            Both in radians, as means over the filters of a layer, then over layers: the path
            length, which is the sum of the angles from each measurement to the next; and the
            displacement, the angle between a filter and itself at the start.
        """
        now, displacement = self._directions(), []
        for name, rows in now.items():
            # A filter that is all zero, as RePr makes it for some epochs, has no direction; it goes
            # on from its last one.
            rows = torch.where(rows.any(dim=1, keepdim=True), rows, self._last[name])
            now[name] = rows
            step = angles(rows, self._last[name]).mean()
            self._path_length[name] = self._path_length[name] + step
            displacement.append(angles(rows, self._start[name]).mean())
        self._last = now
        path_length = torch.stack([*map(torch.as_tensor, self._path_length.values())]).mean()
        return path_length.item(), torch.stack(displacement).mean().item()

    def state_dict(self) -> dict[str, dict]:
        """What a training that is resumed needs, by layer.

        That is the start and the path length so far (``'way'``), and for layers in which a filter
        is all zero the last directions, which the weights do not show.
        """
        return dict(
            start={name: rows.cpu() for name, rows in self._start.items()},
            way={name: float(length) for name, length in self._path_length.items()},
            last={
                name: self._last[name].cpu()
                for name, rows in self._directions().items()
                if not rows.any(dim=1).all()
            },
        )

    def load_state_dict(self, state: Mapping[str, Mapping]) -> None:
        """Go on from a training's :meth:`state_dict`; layers that it lacks start now."""
        last = state.get('last', {})  # checkpoints of mmwau 0.1 have none
        self._last = {name: last.get(name, rows).to(rows) for name, rows in self._last.items()}
        start = state['start']
        self._start = {name: start.get(name, rows).to(rows) for name, rows in self._start.items()}
        self._path_length = {name: state['way'].get(name, 0.0) for name in self._path_length}

    def _directions(self) -> dict[str, Tensor]:
        return {
            name: filter_directions(module.weight, filter_dim(module), module.groups)
            for name, module in self._convolutions.items()
        }
