"""Another optimizer of the same kind, to try out on a small parameter what its steps do."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


def options_of(optimizer: Optimizer, group: Mapping) -> dict[str, Any]:
    """The arguments with which another optimizer of this kind has the options of a group."""
    known = _arguments(type(optimizer)) - {'params'}
    return {key: group[key] for key in known & group.keys()}


def take_steps(
    kind: Callable[..., Optimizer],
    options: Mapping[str, Any],
    param: Parameter,
    grads: Sequence[Tensor],
    state: Mapping | None = None,
    after_each: Callable[[], object] = lambda: None,
) -> Mapping:
    """Make the first steps of a new optimizer.

    The global random state is not changed, and each call starts from the same one.

    Args:
        kind: Class of the optimizer.
        options: Its arguments.
        param: Its only parameter, which is moved.
        grads: The gradient of each step.
        state: The state of the parameter before the first step. Defaults to none.
        after_each: Is called after each step.

    Returns:
        The state of the parameter after the last step.
    """
    devices = [param.device] if param.device.type == 'cuda' else []
    with torch.enable_grad(), torch.random.fork_rng(devices):
        trial = kind([param], **options)
        train = getattr(trial, 'train', None)
        if callable(train):  # schedule-free ones step in this mode only
            train()
        if state:
            trial.state[param] = copy.deepcopy(state)
        # Hooks on all optimizers are not meant for this one.
        step = getattr(type(trial).step, '__wrapped__', type(trial).step)
        for grad in grads:
            param.grad = grad.clone()
            step(trial)
            after_each()
    return trial.state[param]


def _arguments(kind: type) -> set[str]:
    """Names of the arguments that a class takes, those it passes on included."""
    names: set[str] = set()
    for part in kind.__mro__:
        init = part.__init__  # type: ignore[misc]  # just what this class takes, no instance
        arguments = inspect.signature(init).parameters
        names |= arguments.keys()
        if not any(each.kind is each.VAR_KEYWORD for each in arguments.values()):
            break
    return names
