"""Where an optimizer's state starts: what a slice has that was held in all updates so far.

Under ``hold='state'`` each slice has a clock of its own: its first step is the optimizer's first
step, whenever it comes. An optimizer makes its state for the whole parameter at once, so that held
slices get rows that they have to keep until their turn. These rows are the *start*: the state from
which an ordinary step does what the very first step did.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor, optim
from torch.nn import Parameter
from torch.optim import Optimizer

from .another_optimizer import options_of, take_steps
from .whole_tensors import refuse_whole_tensors

# Known by reading them: they move each element by its own gradient and state alone, which starts at
# zero. So they do to active slices alone what they would do to them among others. (Adagrad makes
# its state before training, with nothing held.)
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
# Their state does not go by slices: sums over time and over everything, or signs.
REFUSED = (optim.ASGD, optim.LBFGS, optim.Rprop)
# Given rows of a state and the same rows of the weight, the start of these rows.
Start = Callable[[Tensor, Tensor], Tensor]
REMEDY = "Use hold='weight' with it"


def check_state(optimizer: Optimizer) -> None:
    """Raise a ValueError if an optimizer's state does not go by slices."""
    if isinstance(optimizer, REFUSED):
        raise ValueError(
            "hold='state' needs an optimizer whose state has one row for each slice; "
            f"{type(optimizer).__name__}'s has not. {REMEDY}"
        )


def refuse_whole_vector(optimizer: Optimizer) -> None:
    """Raise a ValueError if an optimizer moves its parameters as one vector, with one state."""
    if isinstance(optimizer, optim.LBFGS):
        raise ValueError(
            "hold='state' needs an optimizer with a state for each parameter; LBFGS has one for "
            f'all of them together. {REMEDY}'
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


class Starts:
    """Finds where the rows of an optimizer's state start, by trying.

    A new optimizer of the same kind makes its first step on a small parameter. Then another one
    makes a step from each of the states that come into question; the right one leads to the
    same weights and state, bit for bit. (What counts steps is at zero in this; in training it goes
    on for the whole parameter.) In the same way optimizers are found whose steps read whole tensors
    (:mod:`mmwau.core.whole_tensors`).

    Args:
        optimizer: The optimizer. It is not changed.
    """

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self._found: dict[tuple, dict[str, Start]] = {}
        self._by_slices: set[tuple] = set()

    def check(self, param: Parameter, dim: int) -> None:
        """Raise a ValueError if :meth:`of` does, or the state that is there does not go by slices.

        Args:
            param: The parameter, whose options are tried.
            dim: The dimension on which its slices lie.
        """
        if not self.optimizer.state.get(param):
            self.of(param, dim)
        elif type(self.optimizer) not in ELEMENTWISE:
            refuse_without_rows(self.optimizer, param, dim)
            self._refuse_whole_tensors(param, dim)

    def of(self, param: Parameter, dim: int) -> dict[str, Start]:
        """Find the starts for one parameter.

        Args:
            param: The parameter, whose options are tried.
            dim: The dimension on which its slices lie.

        Returns:
            A function for each state tensor that has a row for each slice.

        Raises:
            ValueError: If another optimizer of this kind can't be made, its state does not go by
                slices, no start is the right one, or its steps read whole tensors.
        """
        own = self.optimizer.state.get(param, {})
        check_dampening(self.optimizer)
        if type(self.optimizer) in ELEMENTWISE:
            return dict.fromkeys(own, zeros)
        case = self._case(param, dim)
        if case not in self._found:
            self._found[case] = _find(self.optimizer, self._groups[param], param, dim)
        self._refuse_whole_tensors(param, dim)
        # A large parameter may have more than the small one (8-bit states have scales of blocks).
        refuse_without_rows(self.optimizer, param, dim)
        missing = [
            key
            for key, value in own.items()
            if has_rows(value, param, dim) and key not in self._found[case]
        ]
        if missing:
            raise ValueError(
                f"hold='state' can't find where {', '.join(missing)} of "
                f'{type(self.optimizer).__name__} starts, which only some of its steps make. '
                f'{REMEDY}'
            )
        return self._found[case]

    def _refuse_whole_tensors(self, param: Parameter, dim: int) -> None:
        case = self._case(param, dim)
        if case not in self._by_slices:
            refuse_whole_tensors(self.optimizer, self._groups[param], param, dim)
            self._by_slices.add(case)

    def _case(self, param: Parameter, dim: int) -> tuple:
        """What parameters have in common that are tried but once."""
        return id(self._groups[param]), dim, param.dim(), param.dtype, param.device

    @cached_property
    def _groups(self) -> dict[Parameter, dict]:
        groups = self.optimizer.param_groups
        return {param: group for group in groups for param in group['params']}


def check_dampening(optimizer: Optimizer) -> None:
    """Raise a ValueError if SGD would make the first step of a slice as another one than the first.

    It does where a parameter has no momentum yet and will be dampened.
    """
    for group in optimizer.param_groups if isinstance(optimizer, optim.SGD) else ():
        is_dampened = group['dampening'] and group['momentum']
        if is_dampened and not all(optimizer.state.get(param) for param in group['params']):
            raise ValueError(
                "hold='state' gives each slice a clock of its own, but SGD takes its first step "
                f'without dampening and all others with dampening={group["dampening"]}: the first '
                'step of a slice that was held would be too small. Set dampening=0, or use '
                "hold='weight'"
            )


def start_fused_momentum(optimizer: Optimizer) -> None:
    """Let fused SGD take the first step of some parameters together with later ones of others.

    It wants a momentum for all that have a gradient, or for none. Without dampening, the first step
    from a momentum of zeros is the first step.

    Raises:
        ValueError: If there is dampening, and some of them have a momentum.
    """
    for group in optimizer.param_groups if isinstance(optimizer, optim.SGD) else ():
        if not group.get('fused') or not group['momentum']:
            continue
        params = [param for param in group['params'] if param.grad is not None]
        buffers = [optimizer.state[param].get('momentum_buffer') for param in params]
        if all(buffer is None for buffer in buffers):
            continue
        for param, buffer in zip(params, buffers, strict=True):
            if buffer is None and group['dampening']:
                raise ValueError(
                    "hold='state' gives each layer a clock of its own, but fused SGD can't take "
                    f'the first step of a layer, which is without dampening={group["dampening"]}, '
                    'together with later steps of others. Set fused=False'
                )
            if buffer is None:
                optimizer.state[param]['momentum_buffer'] = torch.zeros_like(param)


def refuse_without_rows(optimizer: Optimizer, param: Parameter, dim: int) -> None:
    """Raise a ValueError if the state of a parameter has more than rows of slices and numbers."""
    _refuse_without_rows(type(optimizer).__name__, optimizer.state.get(param, {}), param, dim)


def _refuse_without_rows(name: str, state: Mapping, param: Tensor, dim: int) -> None:
    others = [
        str(key)
        for key, value in state.items()
        if not has_rows(value, param, dim) and not _is_number(value)
    ]
    if others:
        raise ValueError(
            "hold='state' needs an optimizer whose state has one row for each slice; "
            f'{", ".join(others)} of {name} has not. {REMEDY}'
        )


def _find(optimizer: Optimizer, group: dict, param: Parameter, dim: int) -> dict[str, Start]:
    name = type(optimizer).__name__
    try:
        first, made = _step(optimizer, group, param, {})
    except Exception as error:
        raise ValueError(
            f"hold='state' has to find where the state of {name} starts, but can't make another "
            f'optimizer of this kind to try it ({type(error).__name__}: {error}). {REMEDY}'
        ) from error
    keys = [key for key, value in made.items() if has_rows(value, first, dim)]
    _refuse_without_rows(name, made, first, dim)
    counters = {key: _zero(value) for key, value in made.items() if key not in keys}
    weight = _weight(param)

    def is_first(rows: dict[str, Tensor]) -> bool:
        again, after = _step(optimizer, group, param, {**counters, **rows})
        return torch.equal(again, first) and all(torch.equal(after[key], made[key]) for key in keys)

    for chosen in itertools.product((zeros, ones, weights), repeat=len(keys)):
        starts = dict(zip(keys, chosen, strict=True))
        rows = {key: start(made[key], weight) for key, start in starts.items()}
        # Where the first step overwrites a state, whatever it was, later steps are other ones.
        absurd = ({**rows, key: torch.full_like(made[key], 7)} for key in keys)
        if is_first(rows) and not any(map(is_first, absurd)):
            return starts
    raise ValueError(
        "hold='state' gives each slice a clock of its own, but the first step of "
        f'{name} is not like the others, whether its state ({", ".join(keys)}) starts at zero, at '
        f'one or at the weight. {REMEDY}'
    )


def _step(optimizer: Optimizer, group: dict, param: Parameter, state: dict) -> tuple[Tensor, dict]:
    """Make one step of a new optimizer on a small parameter; return its weight and state.

    The optimizer is of the kind of this one, with the options of the group, and has the state
    before the step. The parameter has the dimensions, the dtype and the device of this one.
    """
    small = Parameter(_weight(param))
    # Of both signs as the weights are, and none of them a weight.
    grad = small.detach().flip(0).mul_(0.7).add_(0.01)
    made = take_steps(type(optimizer), options_of(optimizer, group), small, [grad], state)
    return small.detach(), dict(made)


def _weight(param: Parameter) -> Tensor:
    """A small weight with as many dimensions as the parameter, of its dtype and on its device."""
    shape = [min(size, 3) for size in param.shape]
    numbers = torch.arange(1, torch.Size(shape).numel() + 1, device=param.device)
    return numbers.double().sin().view(shape).to(param.dtype)


def has_rows(value: object, param: Tensor, dim: int) -> bool:
    """Whether a value of a state is a tensor with a row for each slice of the parameter."""
    return (
        isinstance(value, Tensor)
        and value.dim() == param.dim() > 0
        and value.size(dim) == param.size(dim)
    )


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() <= 1
    return not isinstance(value, (dict, list, tuple))


def _zero(value: object) -> object:
    """What counts starts at zero, and what is no number stays."""
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return type(value)() if isinstance(value, (int, float)) else value
