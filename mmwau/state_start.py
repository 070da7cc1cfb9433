"""Where an optimizer's state starts: what a slice has that was held in all updates so far.

Under ``hold='state'`` each slice has a clock of its own: its first step is the optimizer's first
step, whenever it comes. An optimizer makes its state for the whole parameter at once, so that held
slices get rows that they have to keep until their turn. These rows are the *start*: the state from
which an ordinary step does what the very first step did.
"""

import copy
import inspect
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, optim
from torch.nn import Parameter
from torch.optim import Optimizer

# Known by reading them. (Adagrad makes its state before training, with nothing held.)
STARTS_AT_ZERO = (
    optim.Adam,
    optim.AdamW,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.Adadelta,
)
# Their state does not go by slices: sums over time and over everything, or signs.
REFUSED = (optim.ASGD, optim.LBFGS, optim.Rprop)
# Given rows of a state and the same rows of the weight, the start of these rows.
Start = Callable[[Tensor, Tensor], Tensor]
REMEDY = "Use hold='weight' with it"


def check_state(optimizer: Optimizer) -> None:
    """Raise if an optimizer's state does not go by slices.

    Raises:
        ValueError: If it does not.
    """
    if isinstance(optimizer, REFUSED):
        raise ValueError(
            "hold='state' needs an optimizer whose state has one row for each slice; "
            f"{type(optimizer).__name__}'s has not. {REMEDY}"
        )


def zeros(rows: Tensor, weight: Tensor) -> Tensor:
    """Start at zero."""
    return torch.zeros_like(rows)


def ones(rows: Tensor, weight: Tensor) -> Tensor:
    """Start at one, as the squares of timm's RMSpropTF do."""
    return torch.ones_like(rows)


def weights(rows: Tensor, weight: Tensor) -> Tensor:
    """Start at the weight, as schedule-free optimizers do."""
    return weight.to(rows.dtype) if weight.shape == rows.shape else torch.zeros_like(rows)


def find_starts(optimizer: Optimizer, param: Parameter) -> dict[str, Start]:
    """Find where the rows of an optimizer's state start, by trying.

    A new optimizer of the same kind makes its first step on a small parameter. Then another one
    makes a step from each of the states that come into question; the right one leads to the
    same weights and state, bit for bit.

    Args:
        optimizer: The optimizer. It is not changed.
        param: One of its parameters, whose options are tried.

    Returns:
        A function for each state tensor that has as many dimensions as the parameter.

    Raises:
        ValueError: If another optimizer of this kind can't be made, or no start is the right one.
    """
    group = next(
        group
        for group in optimizer.param_groups
        if any(param is other for other in group['params'])
    )
    if isinstance(optimizer, optim.SGD) and group['dampening'] and group['momentum']:
        raise ValueError(
            "hold='state' gives each slice a clock of its own, but SGD takes its first step "
            f'without dampening and all others with dampening={group["dampening"]}: the first step '
            "of a slice that was held would be too small. Set dampening=0, or use hold='weight'"
        )
    own = [key for key, value in optimizer.state.get(param, {}).items() if _has_rows(value, param)]
    if type(optimizer) in (optim.SGD, *STARTS_AT_ZERO):
        return dict.fromkeys(own, zeros)
    name = type(optimizer).__name__
    try:
        first, made = _step(optimizer, group, param, {})
    except Exception as error:
        raise ValueError(
            f"hold='state' has to find where the state of {name} starts, but can't make another "
            f'optimizer of this kind to try it ({type(error).__name__}: {error}). {REMEDY}'
        ) from error
    keys = [key for key, value in made.items() if _has_rows(value, param)]
    weight = _weight(param)
    others = {key: _zero(value) for key, value in made.items() if key not in keys}
    for chosen in itertools.product((zeros, ones, weights), repeat=len(keys)):
        starts = dict(zip(keys, chosen, strict=True))
        rows = {key: start(made[key], weight) for key, start in starts.items()}
        again, after = _step(optimizer, group, param, {**others, **rows})
        same = torch.equal(again, first) and all(torch.equal(after[key], made[key]) for key in keys)
        if same and set(own) <= set(keys):
            return starts
    raise ValueError(
        "hold='state' gives each slice a clock of its own, but the first step of "
        f'{name} is not like the others, whether its state ({", ".join(keys)}) starts at zero, at '
        f'one or at the weight. {REMEDY}'
    )


def _step(optimizer: Optimizer, group: dict, param: Parameter, state: dict) -> tuple[Tensor, dict]:
    """Make one step of a new optimizer on a small parameter; return its weight and state.

    Args:
        optimizer: Of this kind.
        group: With the options of this group.
        param: The small parameter has its dimensions, dtype and device.
        state: Is what the optimizer has before the step.
    """
    known = _arguments(type(optimizer)) - {'params'}
    small = Parameter(_weight(param))
    # Of both signs as the weights are, and none of them a weight.
    small.grad = small.detach().flip(0).mul_(0.7).add_(0.01)
    with torch.enable_grad():
        twin = type(optimizer)([small], **{key: group[key] for key in known & group.keys()})
        if state:
            twin.state[small] = copy.deepcopy(state)
        twin.step()
    return small.detach(), dict(twin.state[small])


def _arguments(kind: type) -> set[str]:
    """Names of the arguments that a class takes, those it passes on included."""
    names = set()
    for part in kind.__mro__:
        arguments = inspect.signature(part.__init__).parameters
        names |= arguments.keys()
        if not any(each.kind is each.VAR_KEYWORD for each in arguments.values()):
            break
    return names


def _weight(param: Parameter) -> Tensor:
    """A small weight with as many dimensions as the parameter, of its dtype and on its device."""
    shape = [min(size, 3) for size in param.shape]
    numbers = torch.arange(1, torch.Size(shape).numel() + 1, device=param.device)
    return numbers.double().sin().view(shape).to(param.dtype)


def _has_rows(value: object, param: Parameter) -> bool:
    return isinstance(value, Tensor) and value.dim() == param.dim() > 0


def _zero(value: object) -> object:
    """What counts starts at zero, and what is no number stays."""
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return type(value)() if isinstance(value, (int, float)) else value
