"""RePr: filters that overlap most are dropped for some epochs, and begin anew, orthogonal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from mmengine.dist import broadcast
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmwau.core.checks import check_bool, check_count, check_fraction
from mmwau.core.norms import norms_behind
from mmwau.core.random_numbers import random_numbers
from mmwau.core.slices import Convolution
from mmwau.engine.bare_model import bare_model
from mmwau.overlap import filter_overlap, filter_rows, layer_shape, unit_rows
from mmwau.targets import DEFAULT_TARGETS, check_targets, filter_dim, find_convolutions, find_layers

from .leave_out import LeaveOutHook
from .weights import first_convolution


@HOOKS.register_module()
class RePrHook(LeaveOutHook):
    """Train the network and a part of it in turns (Prakash et al., RePr, 1811.07275).

    Each cycle has two stages. The whole network trains for ``full_epochs``. Then the filters that
    overlap most (:func:`mmwau.overlap.filter_overlap`), ranked over all layers together, are
    dropped, and what is left trains for ``sub_epochs``. After that the dropped filters begin anew,
    orthogonal to what they were and to the filters of their layer that stayed, and the next cycle
    begins. After the last one the whole network trains on to the end.

    A dropped filter is zero, its bias and its channel of the norm layer that follows are zero,
    and so is what comes out. It begins anew with its bias at 0, and with weight 1, bias 0, mean 0
    and variance 1 in the norm layer; its momentum is zero. As we read it, the paper re-initialises
    what belongs to a filter in batch norm and in Adam as well. Weights that take a dropped channel
    as their input see only weight decay in the meantime.

    What we decided where we know of no word of the paper:

    - A new filter has a random direction among those allowed, and the mean length of the filters
      that stayed. While directions are free, the new ones are orthogonal to each other too.
    - If the filters that stayed leave no direction free, there being as many as a filter has
      values, a new one is orthogonal only to its former self. The log says how many are.
    - Every convolution keeps the filter that overlaps least.
    - The groups of a convolution have no inputs in common, so that overlap is measured, and new
      filters are orthogonal, within a group; depthwise convolutions stay as they are.

    Filters of few values (those of 1x1 convolutions of few channels) overlap more by chance, and
    so are dropped first. ``targets`` can leave them out.

    Args:
        full_epochs: Epochs of the whole network in a cycle, ``S1`` in the paper; at least 1.
        sub_epochs: Epochs of what is left in a cycle, ``S2``; at least 1.
        drop_ratio: Fraction of all filters that is dropped, ``p``, in (0, 1).
        cycles: Number of cycles, ``N``; at least 1. Training has to be longer than all of them. The
            defaults of these four are the paper's as we read it; it has three cycles in 150 epochs
            where it compares RePr with DSD on CIFAR-10.
        targets: Prefixes of module names; filters are dropped from the convolutions below them
            that train. Defaults to ``('backbone', 'neck')``.
        skip_first: Whether the first convolution of the model keeps all filters. Defaults to
            True. (So the authors are said to do it. Its filters have few values too.)

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        full_epochs: int = 20,
        sub_epochs: int = 10,
        drop_ratio: float = 0.3,
        cycles: int = 3,
        targets: str | Sequence[str] = DEFAULT_TARGETS,
        skip_first: bool = True,
    ):
        super().__init__()
        check_count('full_epochs', full_epochs, 1, 'epochs of the whole network in a cycle')
        check_count('sub_epochs', sub_epochs, 1, 'epochs without the dropped filters in a cycle')
        check_count('cycles', cycles, 1, 'how often filters are dropped')
        check_fraction('drop_ratio', drop_ratio, 'the part of all filters that is dropped')
        check_bool('skip_first', skip_first)
        self.full_epochs, self.sub_epochs, self.cycles = full_epochs, sub_epochs, cycles
        self.drop_ratio = drop_ratio
        self.targets = check_targets(targets)
        self.skip_first = skip_first
        self._seeks_norms = False

    @property
    def whole_from(self) -> int:
        """The epoch after the last cycle."""
        return self.cycles * (self.full_epochs + self.sub_epochs)

    def phase_at(self, epoch: int) -> int | None:
        """The cycle, if the epoch is one without the dropped filters."""
        cycle, place = divmod(epoch, self.full_epochs + self.sub_epochs)
        return cycle if place >= self.full_epochs and cycle < self.cycles else None

    def prepare(self, runner: Runner, model: nn.Module) -> None:
        """Find the layers, and in the first iteration the norm layer that follows each."""
        layers = find_layers(model, self.targets, optimizer=runner.optim_wrapper.optimizer)
        first = model.get_submodule(first_convolution(model)) if self.skip_first else None
        convolutions = find_convolutions(model, self.targets)
        self._layers = {
            name: convolutions[name]
            for name in layers
            if convolutions[name] is not first and layer_shape(convolutions[name])[0] > 1
        }
        if not self._layers:
            raise ValueError(
                f'targets={self.targets!r} has no convolution to drop filters from: the first one '
                f'of the model (skip_first={self.skip_first}) and depthwise ones keep theirs'
            )
        # A run that is resumed knows the norms of its layers, unless those are others now.
        known = self.state.setdefault('norms', {})
        self._seeks_norms = not self._layers.keys() <= known.keys()

    def before_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Drop filters, or let them begin anew, if the epoch asks for it."""
        if not self._seeks_norms:
            super().before_train_iter(runner)

    @contextmanager
    def changed(self, runner: Runner) -> Iterator[None]:
        """Keep dropped filters at zero, and in the first iteration find norm layers."""
        with super().changed(runner):
            if not self._seeks_norms:
                yield
                return
            with norms_behind(bare_model(runner.model), self._layers) as found:
                yield
            for name in self._layers:
                self.state['norms'].setdefault(name, found.get(name, []))
            self._seeks_norms = False

    def leave_out(self, runner: Runner, model: nn.Module, phase: int) -> None:
        """Choose the filters to drop."""
        overlaps = {
            name: filter_overlap(module.weight, filter_dim(module), module.groups).cpu()
            for name, module in self.still_training(runner, self._layers).items()
        }
        chosen = zip(overlaps, rank([*overlaps.values()], self.drop_ratio), strict=True)
        dropped = {name: index for name, index in chosen if len(index)}
        self.state['dropped'] = dropped
        self.state['former'] = {
            name: _rows(self._layers[name]).flatten(0, 1)[index].cpu()
            for name, index in dropped.items()
        }
        parts = [f'{name} {len(index)} of {len(overlaps[name])}' for name, index in dropped.items()]
        runner.logger.info(
            f'RePr: cycle {phase + 1} of {self.cycles} drops {sum(map(len, dropped.values()))} of '
            f'{sum(map(len, overlaps.values()))} filters until epoch '
            f'{runner.epoch + self.sub_epochs}: {", ".join(parts)}'
        )

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """The dropped filters, their biases, and their channels of norm layers."""
        params, masks = dict(model.named_parameters(remove_duplicate=False)), {}
        for name, index in self.state['dropped'].items():
            dims = {f'{name}.weight': filter_dim(model.get_submodule(name)), f'{name}.bias': 0}
            for norm in self.state['norms'][name]:
                dims |= {f'{norm}.weight': 0, f'{norm}.bias': 0}
            for key, dim in dims.items():
                if key in params:
                    mask = torch.zeros_like(params[key], dtype=torch.bool)
                    masks[key] = mask.index_fill_(dim, index.to(mask.device), True)
        return masks

    def bring_back(self, runner: Runner, model: nn.Module) -> None:
        """Let the dropped filters begin anew."""
        without = 0
        former = self.state.pop('former')
        dropped = self.state.pop('dropped')
        for name, index in dropped.items():
            time = f'{runner.seed}/{self.phase}'
            layer = cast(Convolution, model.get_submodule(name))
            without += restart(layer, index.tolist(), former[name], time, name)
            for norm in map(model.get_submodule, self.state['norms'][name]):
                for key, start in (('weight', 1), ('running_mean', 0), ('running_var', 1)):
                    if (value := getattr(norm, key, None)) is not None:
                        value.data[index.to(value.device)] = start
        runner.logger.info(
            f'RePr: {sum(map(len, dropped.values()))} filters begin anew'
            + (f', {without} of them not orthogonal to those that stayed' if without else '')
        )


def rank(overlaps: Sequence[Tensor], drop_ratio: float) -> list[Tensor]:
    """Choose the filters that overlap most, over all layers together.

    Args:
        overlaps: For each layer the overlap of its filters, of shape (filters,).
        drop_ratio: Fraction of all filters to choose, in (0, 1). Fewer are chosen if otherwise a
            layer would be left with none.

    Returns:
        For each layer the chosen filters, ascending int64.
    """
    # Every layer keeps the filter that overlaps least.
    every = torch.cat([overlap.index_fill(0, overlap.argmin(), -1) for overlap in overlaps])
    count = min(round(drop_ratio * len(every)), len(every) - len(overlaps))
    # Processes on different hardware could round differently.
    broadcast(every)
    chosen = torch.zeros(len(every), dtype=torch.bool)
    chosen[every.argsort(descending=True, stable=True)[:count]] = True
    parts = chosen.split([len(overlap) for overlap in overlaps])
    return [part.nonzero().flatten() for part in parts]


@torch.no_grad()
def restart(
    convolution: Convolution, index: Sequence[int], former: Tensor, time: str, name: str
) -> int:
    """Let filters begin anew, orthogonal to what they were and to the others.

    Args:
        convolution: The layer.
        index: The filters.
        former: What they were, of shape (len(index), values of a filter).
        time: See :func:`mmwau.core.random_numbers.random_numbers`.
        name: The same.

    Returns:
        How many are orthogonal only to their former self, there being no direction left.
    """
    groups = _rows(convolution).double().cpu()
    per_group, values = groups.shape[1:]
    stayed = torch.ones(groups.shape[:2], dtype=torch.bool)
    stayed.view(-1)[list(index)] = False
    length = groups[stayed].norm(dim=1).mean()
    names = [f'{name}/{one}' for one in index]
    numbers = random_numbers([time] * len(index), names, [values] * len(index))
    # Normally distributed, so that no direction is more likely than another.
    draws = torch.special.ndtri(numbers.clamp(min=2.0**-53)).view(-1, values)
    new = torch.empty_like(draws)
    without = 0
    for group, rows in enumerate(groups):
        places = [place for place, one in enumerate(index) if one // per_group == group]
        if places:
            found, orthogonal = orthogonal_filters(
                rows[stayed[group]], former[places].double().cpu(), draws[places]
            )
            new[places] = found * length
            without += len(places) - int(orthogonal.sum())
    broadcast(new)
    for one, row in zip(index, new, strict=True):
        part = convolution.weight.select(filter_dim(convolution), one)
        part.copy_(row.view(part.shape))
    return without


def orthogonal_filters(kept: Tensor, former: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Find a direction for each filter that begins anew.

    Args:
        kept: The filters that stayed, float64 of shape (kept, values).
        former: What the others were, float64 of shape (dropped, values).
        draws: Random directions, float64 of shape (dropped, values).

    Returns:
        Filters of norm 1, float64 of shape (dropped, values), and a bool tensor of shape
        (dropped,). Where that is True, a filter is orthogonal to its former self and to those
        kept, and also to the new ones before it, if possible. Where it is False, there is no such
        direction: it is orthogonal only to its former self, if it has more than one value.
    """
    values = kept.shape[1]
    # A short filter has as much of a direction as a long one.
    kept, former = unit_rows(kept), unit_rows(former)
    _, sizes, directions = torch.linalg.svd(kept, full_matrices=False)
    stayed = directions[sizes > 1e-9 * sizes.amax()] if len(sizes) else kept
    taken = stayed
    found, orthogonal = [], []
    for old, draw in zip(former, draws, strict=True):
        for others in (taken, stayed, stayed[:0]):
            apart = _extend(others, old)
            if len(apart) < values:
                break
        orthogonal.append(len(apart) < values and len(others) >= len(stayed))
        new = _without(draw, apart[: values - 1])
        found.append(new / new.norm())
        taken = _extend(taken, new)
    return torch.stack(found), torch.tensor(orthogonal)


def _extend(basis: Tensor, vector: Tensor) -> Tensor:
    """Add a vector's direction to an orthonormal basis, if it is not in it."""
    rest = _without(vector, basis)
    if rest.norm() <= 1e-9 * vector.norm():
        return basis
    return torch.cat([basis, rest[None] / rest.norm()])


def _without(vector: Tensor, basis: Tensor) -> Tensor:
    """The part of a vector that is orthogonal to a basis."""
    for _ in range(2):  # twice, for the digits that the first time loses
        vector = vector - basis.T @ (basis @ vector)
    return vector


def _rows(convolution: Convolution) -> Tensor:
    return filter_rows(convolution.weight, filter_dim(convolution), convolution.groups)
