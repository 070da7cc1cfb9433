"""Optimizers that keep a copy of the weight, in higher precision, and write the weight from it.

With weights of 16 bits, some make their steps on a *master copy* in the state and then write the
weight anew. What WAU does to the weight alone is undone by the next step: what a held slice did not
move is made up for once its turn comes, and a movement that was made larger starts from the copy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer


@contextmanager
def refuse_new_master_copies(optimizer: Optimizer, params: Sequence[Parameter]) -> Iterator[None]:
    """Refuse an optimizer that makes master copies in the step inside.

    It looks only at parameters whose state is made in this step, so that training does not wait for
    a comparison in each update.

    Raises:
        ValueError: If it does.
    """
    without_state = [param for param in params if not optimizer.state.get(param)]
    yield
    for param in without_state:
        refuse_master_copy(optimizer, param)


def refuse_master_copy(optimizer: Optimizer, param: Parameter) -> None:
    """Refuse an optimizer that has a master copy of a parameter, which it has left as it was.

    Raises:
        ValueError: If it has one in the parameter's state.
    """
    for key, value in optimizer.state.get(param, {}).items():
        if _is_master_copy(value, param):
            raise ValueError(
                "hold='weight' and rescale=True need an optimizer that steps from the weight that "
                f'is there; {type(optimizer).__name__} writes it anew from a copy in its state '
                f"({key}), which undoes what WAU did in the update before. Use hold='state' with "
                'rescale=False'
            )


def _is_master_copy(value: object, param: Parameter) -> bool:
    return (
        isinstance(value, Tensor)
        and value.shape == param.shape
        and value.is_floating_point()
        and param.is_floating_point()
        and value.element_size() > param.element_size()
        and torch.equal(value.to(param.dtype), param)
        # It has made a step in higher precision. What is equal in that too was copied from the
        # weight, or both are zeros.
        and not torch.equal(value, param.to(value.dtype))
    )
