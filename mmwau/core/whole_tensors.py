"""Optimizers whose step reads whole tensors, tried out on a small one.

Under ``hold='state'`` the gradients of held slices are zeros. Most optimizers move each element, or
each slice, by itself, and these zeros change nothing for the active slices. Others divide by a mean
or a norm over the whole tensor (cautious ones, LAMB, LARS, NovoGrad), or mix its rows (Muon): with
half of the slices held, the active ones would go another way, often too far.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from .another_optimizer import options_of, take_steps

# Of the largest movement. Both steps do the same sums, so that rounding alone is far below it, and
# a mean or a norm of which half is missing is far above.
TOLERANCE = 1e-3


def refuse_whole_tensors(
    optimizer: Optimizer, group: Mapping[str, Any], param: Parameter, dim: int
) -> None:
    """Refuse an optimizer whose active slices move differently if gradients of others are zeros.

    An optimizer that can't be tried passes.

    Args:
        optimizer: The optimizer. It is not changed.
        group: The group of the parameter, whose options are tried.
        param: The parameter.
        dim: The dimension on which its slices lie.

    Raises:
        ValueError: If its steps read whole tensors.
    """
    options = _with_a_plain_rate(options_of(optimizer, group))
    weight, grads = _weight_and_grads(param, dim)
    held = [grad.clone() for grad in grads]
    for grad in held:
        grad.narrow(dim, 0, 2).zero_()
    try:
        # The first step, and one from a state: what is read of it may be zero in the first.
        first, second = _ends(optimizer, options, weight, grads)
        (first_held,) = _ends(optimizer, options, weight, held[:1])
        second_held = _ends(optimizer, options, weight, [grads[0], held[1]])[1]
    except Exception:
        # Where a start has to be found, it was refused before; otherwise it can't be known.
        return
    pairs = (weight, first, first_held), (first, second, second_held)
    if any(_differ(*(each.narrow(dim, 2, 2) for each in steps)) for steps in pairs):
        raise ValueError(
            "hold='state' makes the gradients of held slices zero, and a step of "
            f'{type(optimizer).__name__} reads the whole tensor, as for a mean or a norm, so that '
            "active slices would move too far or another way. Use hold='weight' with it, or "
            "axis='layer', where whole tensors are held"
        )


def _with_a_plain_rate(options: dict[str, Any]) -> dict[str, Any]:
    """Put 1 for the learning rate, which may be 0 or tiny in a warm-up and hide everything."""
    rate = options.get('lr')
    if isinstance(rate, Tensor):
        return {**options, 'lr': torch.ones_like(rate)}
    return {**options, 'lr': 1.0} if isinstance(rate, (int, float)) else options


def _weight_and_grads(param: Parameter, dim: int) -> tuple[Tensor, list[Tensor]]:
    """A weight with four slices and the gradients of two steps.

    They have at least single precision, so that small movements are not rounded away. Gradients are
    too small for clipping, which may count active slices alone, but not beside weight decay; and
    not orthogonal to the weight, which a few optimizers treat as a case of its own (AdamP).
    """
    shape = [4 if each == dim else 3 for each in range(param.dim())]
    numbers = torch.arange(1.0, torch.Size(shape).numel() + 1, device=param.device).view(shape)
    dtype = torch.promote_types(param.dtype, torch.float32)
    weight = 0.1 * numbers.sin()
    grads = [0.01 * (speed * numbers).cos() + 0.05 * weight for speed in (1, 1.7)]
    return weight.to(dtype), [grad.to(dtype) for grad in grads]


def _ends(
    optimizer: Optimizer, options: Mapping[str, Any], weight: Tensor, grads: list[Tensor]
) -> list[Tensor]:
    """The weight after each step of a new optimizer of this kind."""
    small, ends = Parameter(weight.clone()), []

    def keep() -> None:
        ends.append(small.detach().clone())

    take_steps(type(optimizer), options, small, grads, after_each=keep)
    return ends


def _differ(start: Tensor, end: Tensor, other: Tensor) -> bool:
    """Whether two movements from one start differ by more than rounding."""
    by_rounding = 8 * torch.finfo(end.dtype).eps * max(start.abs().max(), end.abs().max())
    bound = TOLERANCE * (end - start).abs().max() + by_rounding
    # Not the other way round: where only the other one is no number, they differ.
    return bool(end.isfinite().all() and not (other - end).abs().max() <= bound)
