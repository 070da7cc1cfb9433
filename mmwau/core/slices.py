"""The layers that WAU holds, and which of their slices are held in one update."""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from .ragged import rows_and_places


class Layer(NamedTuple):
    """One layer whose slices are selected together.

    Attributes:
        name: Name of the weight in the model, for example ``'backbone.conv1.weight'``.
        num_slices: Number of slices, at least 1.
        tensors: Pairs (parameter, dimension on which its slices lie). The dimension has
            ``num_slices`` elements: the weight and, where slices are filters, the bias.
        is_whole: Whether the layer is one slice, selected together with all other layers. Its
            ``num_slices`` is 1, and the tensors are all parameters of the convolution.
    """

    name: str
    num_slices: int
    tensors: tuple[tuple[Parameter, int], ...]
    is_whole: bool = False

    @property
    def num_filters(self) -> int:
        """Number of its filters, if it is whole."""
        # Where it is computed from several parameters, the largest has its shape.
        weight, dim = max(self.tensors, key=lambda pair: pair[0].numel())
        return weight.size(dim)

    @property
    def num_parameters(self) -> int:
        """Number of all elements of its parameters."""
        return sum(param.numel() for param, _ in self.tensors)


class All(Enum):
    """Stands for the indices of all slices of a parameter."""

    ALL = 'all'


ALL: Final = All.ALL
# A convolution of torch, or a module that is built like one.
Convolution = nn.modules.conv._ConvNd
# As find_layers returns them, by name, or one after another.
Layers = Mapping[str, Layer] | Iterable[Layer]


class Slices(NamedTuple):
    """A parameter of which some slices are held in this update."""

    param: Parameter
    dim: int  # on which its slices lie
    active: Tensor | All  # their indices, int64 of shape (num_active,), on its device
    held: Tensor | All  # indices of the others
    fraction: float  # how much of what was selected together is active, in [0, 1]


class ActiveGrads(dict[Parameter, Tensor]):
    """Gradients of active slices by parameter, without the held ones.

    Attributes:
        active: The selection under which some were skipped since the last step, or None: for
            each layer a bool tensor of shape (num_slices,), True where active.
    """

    active: Sequence[Tensor] | None = None

    def clear(self) -> None:
        """Drop them, so that those of another selection can come."""
        super().clear()
        self.active = None

    def check(self, active: Sequence[Tensor], hold: str) -> None:
        """Raise if a step with this selection and hold needs what was skipped.

        Raises:
            ValueError: If some were skipped under another selection, or under ``hold='weight'``.
        """
        if self.active is None:
            return
        if hold == 'weight':
            raise ValueError(
                "hold='weight' needs the gradients of held slices too, but the HeldGradSkipper has "
                "skipped them. Leave it out, or use hold='state'"
            )
        if not is_same_selection(self.active, active):
            raise ValueError(
                'the gradients are of another selection: held slices of that one have none. Give '
                'holding the same active as the HeldGradSkipper; after an update that was dropped, '
                'call skipper.grads.clear()'
            )


def is_same_selection(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two selections have the same slices active in the same layers."""
    if len(one) != len(other):
        return False
    # Not by zip(strict=True), at which the compiler of torch 2.5 stops.
    return all(
        mask is other[place] or torch.equal(mask, other[place]) for place, mask in enumerate(one)
    )


def list_layers(layers: Layers) -> list[Layer]:
    """The layers in a list."""
    return list(layers.values() if isinstance(layers, Mapping) else layers)


def take(tensor: Tensor, dim: int, index: Tensor | All) -> Tensor:
    """Copy some slices of a tensor."""
    return tensor.clone() if index is ALL else tensor.index_select(dim, index)


def put(tensor: Tensor, dim: int, index: Tensor | All, rows: Tensor) -> None:
    """Write what :func:`take` returned to its place."""
    if index is ALL:
        tensor.copy_(rows)
    else:
        tensor.index_copy_(dim, index, rows)


def are_whole(layers: Sequence[Layer]) -> bool:
    """Whether the layers are slices themselves; raise a ValueError if only some are."""
    kinds = {layer.is_whole for layer in layers}
    if len(kinds) > 1:
        raise ValueError(
            "layers must be of one axis, but some have slices and some are whole (axis='layer'). "
            'Take the layers of one call of find_layers'
        )
    return kinds == {True}


def find_slices(layers: Layers, active: Sequence[Tensor]) -> list[Slices]:
    """Find what is active and what is held in the parameters of which some slice is held.

    The indices are made for all layers at once, and reach a GPU in one copy that nobody waits for.

    Args:
        layers: The layers.
        active: For each of them a bool tensor of shape (num_slices,) on the CPU.

    Raises:
        ValueError: If there is not one such tensor for each layer, or a parameter is in several
            layers, of which one may hold what another one moves.
    """
    layers = list_layers(layers)
    if [layer.num_slices for layer in layers] != [len(mask) for mask in active]:
        raise ValueError(
            f'active must have a tensor of shape (num_slices,) for each of {len(layers)} layers, '
            f'got {len(active)} of shapes {[tuple(mask.shape) for mask in active[:5]]}; it is what '
            'WAU.select returns for the same layers'
        )
    if not layers:
        return []
    owner: dict[int, int] = {}
    for place, layer in enumerate(layers):
        for param, _ in layer.tensors:
            first = owner.setdefault(id(param), place)
            if first != place:
                raise ValueError(
                    f'layers must have each parameter once, but {layers[first].name} and '
                    f'{layer.name} have one in common. Take the layers of one call of find_layers'
                )
    is_active = torch.cat(list(active))
    if are_whole(layers):
        return _find_whole(layers, is_active.tolist(), held=True)
    lengths = tuple(layer.num_slices for layer in layers)
    _, index = rows_and_places(lengths)
    sizes = torch.tensor(lengths)
    up_to = is_active.cumsum(0)[sizes.cumsum(0) - 1]
    num_active = up_to.diff(prepend=up_to.new_zeros(1))
    counts = torch.cat([num_active, sizes - num_active]).tolist()
    indices = torch.cat([index[is_active], index[~is_active]])
    on_device: dict[torch.device, tuple[Tensor, ...]] = {}
    found = []
    for place, layer in enumerate(layers):
        if counts[place] == layer.num_slices:
            continue
        for param, dim in layer.tensors:
            if param.device not in on_device:
                moved = indices.to(param.device, non_blocking=True)
                on_device[param.device] = moved.split(counts)
            split = on_device[param.device]
            indices_of = split[place], split[len(layers) + place]
            found.append(Slices(param, dim, *indices_of, counts[place] / layer.num_slices))
    return found


def find_moving(layers: Layers, active: Sequence[Tensor]) -> list[Slices]:
    """Find the parameters of whole layers that move while others are held.

    Takes the arguments of :func:`find_slices`.
    """
    return _find_whole(list_layers(layers), torch.cat(list(active)).tolist(), held=False)


def _find_whole(layers: Sequence[Layer], is_active: Sequence[bool], held: bool) -> list[Slices]:
    """The parameters of the layers that are held, or of those that are not."""
    fraction = sum(is_active) / len(layers)
    if fraction == 1:
        return []
    found = []
    for layer, moves in zip(layers, is_active, strict=True):
        for param, dim in layer.tensors if moves != held else ():
            none = torch.empty(0, dtype=torch.long, device=param.device)
            active: Tensor | All = none if held else ALL
            others: Tensor | All = ALL if held else none
            found.append(Slices(param, dim, active, others, fraction))
    return found
