"""Ways to hold slices through one optimizer step; :meth:`mmwau.wau.WAU.holding` chooses."""

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, optim
from torch.nn import Parameter
from torch.optim import Optimizer

from .slices import Slices

# They move each element by its own gradient and state alone, and their state starts at zero: they
# do to active slices alone what they would do to them among others.
ELEMENTWISE = (
    optim.SGD,
    optim.Adam,
    optim.AdamW,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.Adadelta,
)


@contextmanager
def keep_weights(slices: Sequence[Slices]) -> Iterator[None]:
    """Hold the weights of held slices."""
    kept = [param.index_select(dim, held) for param, dim, _, held in slices]
    yield
    for (param, dim, _, held), rows in zip(slices, kept, strict=True):
        param.index_copy_(dim, held, rows)


@contextmanager
def keep_state(optimizer: Optimizer, slices: Sequence[Slices]) -> Iterator[None]:
    """Hold the held slices' rows of the optimizer's state, whatever the optimizer.

    Raises:
        ValueError: If a state that is made in this step starts at the weight instead of zero.
    """
    kept = [
        {key: rows.index_select(dim, held) for key, rows in _state(optimizer, param, dim).items()}
        for param, dim, _, held in slices
    ]
    yield
    for (param, dim, _, held), before in zip(slices, kept, strict=True):
        for key, rows in _state(optimizer, param, dim).items():
            if key in before:
                rows.index_copy_(dim, held, before[key])
            else:  # made in this step: a held slice is still where every state starts
                if type(optimizer) not in ELEMENTWISE and rows.shape == param.shape:
                    own, weight = rows.index_select(dim, held), param.index_select(dim, held)
                    _check_start(own.to(weight.dtype), weight, key, optimizer)
                rows.index_fill_(dim, held, 0)


@contextmanager
def step_active_alone(
    optimizer: Optimizer, slices: Sequence[Slices], grads: MutableMapping[Parameter, Tensor]
) -> Iterator[None]:
    """Let an elementwise optimizer see the active slices alone: inside, they are the parameters.

    It costs less than a step over everything, and what is held is not touched at all.

    Args:
        optimizer: One of :data:`ELEMENTWISE`.
        slices: The parameters.
        grads: Gradients of active slices alone, where they were computed so; what a parameter has
            in ``grad`` is added. They are used up.
    """
    wholes = []
    for param, dim, active, _ in slices:
        state = _state(optimizer, param, dim)
        wholes.append((param.data, state))
        grad = None if param.grad is None else param.grad.index_select(dim, active)
        if param in grads:
            rows = grads.pop(param)
            grad = rows if grad is None else grad.add_(rows)
        param.grad = None
        param.data = param.data.index_select(dim, active)
        if grad is not None and grad.stride() != param.stride():
            # Fused optimizers read memory as it lies and take it that all tensors lie alike.
            grad = torch.empty_like(param).copy_(grad)
        param.grad = grad
        for key, rows in state.items():
            optimizer.state[param][key] = rows.index_select(dim, active)
    try:
        yield
    finally:
        for (param, dim, active, _), (whole, state) in zip(slices, wholes, strict=True):
            stepped = _state(optimizer, param, dim)
            whole.index_copy_(dim, active, param.data)
            param.grad = None
            param.data = whole
            for key, rows in stepped.items():
                start = state.get(key)
                if start is None:  # made in this step, and every state starts at zero
                    start = torch.zeros_like(whole, dtype=rows.dtype)
                optimizer.state[param][key] = start.index_copy_(dim, active, rows)


@contextmanager
def rescale_movement(slices: Sequence[Slices]) -> Iterator[None]:
    """Divide the movement of active slices by the fraction of the layer that is active."""
    starts = [param.index_select(dim, active) for param, dim, active, _ in slices]
    yield
    for (param, dim, active, _), start in zip(slices, starts, strict=True):
        fraction = active.numel() / param.size(dim)
        end = param.index_select(dim, active)
        moved = start + (end - start) / fraction
        # What did not move keeps every bit, the sign of a zero included.
        param.index_copy_(dim, active, torch.where(end == start, start, moved))


def zero_grads(slices: Sequence[Slices]) -> None:
    """Make the gradients of held slices zero."""
    for param, dim, _, held in slices:
        if param.grad is not None:
            param.grad.index_fill_(dim, held, 0)


def can_step_active_alone(optimizer: Optimizer) -> bool:
    """Whether :func:`step_active_alone` does what a step over everything would do."""
    has_hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    # Exactly these types: what is derived from them may look at a whole parameter.
    return type(optimizer) in ELEMENTWISE and not has_hooks


def inner(optimizer: Optimizer) -> Optimizer:
    """The optimizer that keeps the state of this process's share of ZeroRedundancyOptimizer."""
    return getattr(optimizer, 'optim', optimizer)


def _check_start(rows: Tensor, weight: Tensor, key: str, optimizer: Optimizer) -> None:
    """Raise if a state, made in a step without gradients, has not started at zero."""
    # By weight decay alone it has come a small part of the way from zero to the weight, or back.
    if (rows - weight).norm() < rows.norm():
        raise ValueError(
            f"hold='state' needs an optimizer whose state starts at zero; {key!r} of "
            f"{type(optimizer).__name__} starts at the weight. Use hold='weight' with it"
        )


def _state(optimizer: Optimizer, param: Parameter, dim: int) -> dict[str, Tensor]:
    """State tensors of a parameter that have a row for each of its slices."""
    return {
        key: value
        for key, value in optimizer.state.get(param, {}).items()
        if isinstance(value, Tensor)
        and value.dim() == param.dim()
        and value.size(dim) == param.size(dim)
    }
