"""Ways to hold slices through one optimizer step; :meth:`mmwau.wau.WAU.holding` chooses.

A step may fail: clipping that meets a gradient that is not finite, an optimizer that runs out of
memory, Ctrl-C. So each of these makes everything that can fail before it changes anything, and
puts back what is held whatever happens in the step.
"""

import copy
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, optim
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_hooks

from .checks import is_capturing
from .leaving import each_on_leaving
from .slices import ALL, Slices, put, take
from .state_start import (
    ELEMENTWISE,
    Starts,
    check_dampening,
    has_rows,
    refuse_without_rows,
    start_fused_momentum,
)

# Attribute of hooks of ours that do not look at parameters.
NEEDS_NO_WHOLE = 'mmwau_needs_no_whole_parameters'
# The only optimizer around another one that is known to keep nothing of its own.
KEEPS_NOTHING = 'ZeroRedundancyOptimizer'
# Steps from these modules call the one that they were put around, and do nothing to parameters:
# schedules count steps.
PASS_ON = ('mmwau.attach', 'torch.optim.lr_scheduler', 'mmengine.optim.scheduler.param_scheduler')


@contextmanager
def keep_weights(slices: Sequence[Slices]) -> Iterator[None]:
    """Hold the weights of held slices."""
    kept = [take(one.param, one.dim, one.held) for one in slices]
    with each_on_leaving() as put_back:
        for one, rows in zip(slices, kept, strict=True):
            put_back.append(partial(put, one.param, one.dim, one.held, rows))
        yield


@contextmanager
def keep_state(optimizer: Optimizer, slices: Sequence[Slices]) -> Iterator[None]:
    """Hold the held slices' rows of the optimizer's state, whatever the optimizer.

    Raises:
        ValueError: If a state has no rows of slices, or is made in this step and starts nobody
            knows where, or the first step of held slices would not be the optimizer's first step,
            or steps read whole tensors.
    """
    if slices:
        check_dampening(optimizer)
    for one in slices:
        refuse_without_rows(optimizer, one.param, one.dim)
    kept = [
        {
            key: take(rows, one.dim, one.held)
            for key, rows in _state(optimizer, one.param, one.dim).items()
        }
        for one in slices
    ]
    had_state = [bool(optimizer.state.get(one.param)) for one in slices]
    starts = Starts(optimizer)

    def put_back(one: Slices, before: dict[str, Tensor], had_state: bool) -> None:
        param, dim, _, held, _ = one
        if not had_state and optimizer.state.get(param):
            each.append(partial(starts.of, param, dim))  # refuses what has no rows
        for key, rows in _state(optimizer, param, dim).items():
            if key in before:
                each.append(partial(put, rows, dim, held, before[key]))
            else:
                each.append(partial(start, one, key, rows))

    def start(one: Slices, key: str, rows: Tensor) -> None:
        # Made in this step: a held slice is still where this state starts.
        param, dim, _, held, _ = one
        own, weight = take(rows, dim, held), take(param, dim, held)
        put(rows, dim, held, starts.of(param, dim)[key](own, weight))

    with each_on_leaving() as each:
        for one, before, had in zip(slices, kept, had_state, strict=True):
            each.append(partial(put_back, one, before, had))
        yield


@contextmanager
def leave_out(optimizer: Optimizer, slices: Sequence[Slices]) -> Iterator[None]:
    """Hold whole parameters and all their state: without a gradient no step looks at them.

    Optimizers of torch never do. Of others, what they do anyway is undone.
    """
    own = inner(optimizer)
    params = [param for group in own.param_groups for param in group['params']]
    held = {id(one.param) for one in slices}
    unsure = [] if leaves_out_what_has_no_grad(optimizer) else slices
    if all(param.grad is None or id(param) in held for param in params):
        # A GradScaler refuses a step without any gradient: one of zeros stays.
        unsure, with_zeros = unsure or slices[:1], slices[:1]
    else:
        with_zeros = []
    keepers = (own,) if own is optimizer else (own, optimizer)
    kept = [
        (keeper, one.param, _copy_state(keeper, one.param)) for one in unsure for keeper in keepers
    ]
    for one in slices:
        one.param.grad = None
    for one in with_zeros:
        one.param.grad = torch.zeros_like(one.param)
    start_fused_momentum(own)
    with keep_weights(unsure), each_on_leaving() as put_back:
        for keeper, param, state in kept:
            # In place, since an optimizer may have them elsewhere too.
            for value, before in state.values():
                if isinstance(value, Tensor):
                    put_back.append(partial(value.copy_, before))
            put_back.append(partial(_put_state, keeper, param, state))
        yield


def _copy_state(optimizer: Optimizer, param: Parameter) -> dict[str, tuple[Any, Any]]:
    """What an optimizer keeps for a parameter, each with a copy."""
    state = optimizer.state.get(param, {})
    return {key: (value, copy.deepcopy(value)) for key, value in state.items()}


def _put_state(optimizer: Optimizer, param: Parameter, state: Mapping) -> None:
    """Put back what :func:`_copy_state` returned."""
    optimizer.state.pop(param, None)
    if state:
        optimizer.state[param] = {
            key: value if isinstance(value, Tensor) else before
            for key, (value, before) in state.items()
        }


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

    Raises:
        ValueError: If the first step of held slices would not be the optimizer's first step.
    """
    if slices:
        check_dampening(optimizer)
    narrow = [_Narrow(optimizer, one, grads.get(one.param)) for one in slices]
    with each_on_leaving() as put_back:
        for each in narrow:
            put_back.append(each.widen)
            each.put()
        yield
        for each in narrow:
            each.grad_after = None
            grads.pop(each.param, None)


class _Narrow:
    """The active slices of a parameter, of its gradient and of its state, as tensors of their own.

    Their gradient is ``rows`` and what is in ``grad``; ``grad_after`` is there once it is whole.
    """

    def __init__(self, optimizer: Optimizer, one: Slices, rows: Tensor | None):
        self.optimizer = optimizer
        self.param, self.dim, self.active, *_ = one
        self.grad_after = self.param.grad
        self.whole = self.param.data
        self.whole_state = dict(optimizer.state.get(self.param, {}))
        self.data = take(self.whole, self.dim, self.active)
        with_rows = _state(optimizer, self.param, self.dim)
        self.state = {key: take(rows, self.dim, self.active) for key, rows in with_rows.items()}
        self.grad = rows
        if self.grad_after is not None:
            self.grad = take(self.grad_after, self.dim, self.active)
            if rows is not None:
                self.grad.add_(rows)
        if self.grad is not None and self.grad.stride() != self.data.stride():
            # Fused optimizers read memory as it lies and take it that all tensors lie alike.
            self.grad = torch.empty_like(self.data).copy_(self.grad)

    def put(self) -> None:
        """Put them in the places of the whole ones."""
        self._put(self.data, self.grad)
        if self.state:
            self.optimizer.state[self.param].update(self.state)

    def widen(self) -> None:
        """Put the whole ones back, then bring in what the step has made of the active slices."""
        stepped = _state(self.optimizer, self.param, self.dim)
        state = dict(self.optimizer.state.get(self.param, {}))
        self._put(self.whole, self.grad_after)
        if self.param in self.optimizer.state:
            self.optimizer.state[self.param] = self.whole_state
        put(self.whole, self.dim, self.active, self.data)
        for key, rows in stepped.items():
            whole = self.whole_state.get(key)
            if whole is None:  # made in this step, and every state starts at zero
                whole = torch.zeros_like(self.whole, dtype=rows.dtype)
            put(whole, self.dim, self.active, rows)
            state[key] = whole
        if state:
            self.optimizer.state[self.param] = state

    def _put(self, data: Tensor, grad: Tensor | None) -> None:
        self.param.grad = None  # which has to have the shape of the parameter
        self.param.data = data
        self.param.grad = grad


@contextmanager
def rescale_movement(slices: Sequence[Slices]) -> Iterator[None]:
    """Divide the movement of active slices by the fraction of them that is active."""
    starts = [take(one.param, one.dim, one.active) for one in slices]
    yield
    for (param, dim, active, _, fraction), start in zip(slices, starts, strict=True):
        end = take(param, dim, active)
        moved = start + (end - start) / fraction
        # What did not move keeps every bit, the sign of a zero included.
        put(param, dim, active, torch.where(end == start, start, moved))


def zero_grads(slices: Sequence[Slices], where_none: bool = False) -> None:
    """Make the gradients of held slices zero; also, if asked, where there is no gradient."""
    for param, dim, _, held, _ in slices:
        if param.grad is None:
            if where_none:
                param.grad = torch.zeros_like(param)
        elif held is ALL:
            param.grad.zero_()
        else:
            param.grad.index_fill_(dim, held, 0)


def can_step_active_alone(optimizer: Optimizer) -> bool:
    """Whether :func:`step_active_alone` does what a step over everything would do."""
    # Exactly these types: what is derived from them may look at a whole parameter.
    return type(optimizer) in ELEMENTWISE and _steps_by_itself(optimizer)


def leaves_out_what_has_no_grad(optimizer: Optimizer) -> bool:
    """Whether it is known that a step changes nothing of parameters without a gradient."""
    own = inner(optimizer)
    is_known = vars(optim).get(type(own).__name__) is type(own)
    # Others around one do something of their own, such as Lookahead.
    is_alone = own is optimizer or type(optimizer).__name__ == KEEPS_NOTHING
    by_itself = all(map(_steps_by_itself, {own, optimizer}))
    return is_known and is_alone and by_itself and not isinstance(own, optim.LBFGS)


def _steps_by_itself(optimizer: Optimizer) -> bool:
    """Whether nobody else has a hand in its step, by hooks or a step of their own."""
    hooks = (
        *getattr(optimizer, '_optimizer_step_pre_hooks', {}).values(),
        *getattr(optimizer, '_optimizer_step_post_hooks', {}).values(),
        *optimizer_hooks._global_optimizer_pre_hooks.values(),
        *optimizer_hooks._global_optimizer_post_hooks.values(),
    )
    return all(hasattr(hook, NEEDS_NO_WHOLE) for hook in hooks) and _has_step_of_class(optimizer)


def _has_step_of_class(optimizer: Optimizer) -> bool:
    """Whether what its step comes to, whoever is around it, is the step of its class."""
    own = type(optimizer).step
    step = optimizer.__dict__.get('step', own)
    while (function := getattr(step, '__func__', step)) is not own:
        # Not by an attribute, which functools.wraps copies to the steps of others.
        if getattr(function, '__globals__', {}).get('__name__') not in PASS_ON:
            return False
        step = getattr(function, '__wrapped__', None)
    return True


def refuse_capture() -> None:
    """Raise a RuntimeError if a step that holds something is captured in a CUDA graph."""
    if is_capturing():
        raise RuntimeError(
            'WAU does not work with a step that is captured in a CUDA graph, which would hold the '
            'same slices in every replay. Capture the forward and backward passes alone, and call '
            'optimizer.step() outside'
        )


def refuse_around(optimizer: Optimizer) -> None:
    """Raise a ValueError if it is around another one, with a state of its own to step by."""
    if inner(optimizer) is not optimizer and type(optimizer).__name__ != KEEPS_NOTHING:
        raise ValueError(
            f"hold='state' by slices can't hold what {type(optimizer).__name__} keeps beside the "
            f"{type(inner(optimizer)).__name__} inside of it. Use axis='layer' or hold='weight'"
        )


def inner(optimizer: Optimizer) -> Optimizer:
    """The optimizer that keeps the state of this process's share of ZeroRedundancyOptimizer."""
    own = getattr(optimizer, 'optim', None)
    return own if isinstance(own, Optimizer) else optimizer


def _state(optimizer: Optimizer, param: Parameter, dim: int) -> dict[str, Tensor]:
    """State tensors of a parameter that have a row for each of its slices."""
    state = optimizer.state.get(param, {})
    return {key: value for key, value in state.items() if has_rows(value, param, dim)}
