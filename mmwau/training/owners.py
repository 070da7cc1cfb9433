"""Which optimizers have WAU attached, and whether each step goes through it."""

import logging
import weakref
from functools import lru_cache
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mmwau.core.holds import NEEDS_NO_WHOLE, inner

LOGGER = logging.getLogger('mmwau')
# Each is an mmwau.attach.Attached, which is not imported here: it is built on this.
_attached: 'weakref.WeakSet[Any]' = weakref.WeakSet()
# Those of which was said already that another optimizer steps their layers.
_warned: 'weakref.WeakSet[Any]' = weakref.WeakSet()


def add(owner: Any) -> None:
    """From the first one on, look at every step of every optimizer."""
    _attached.add(owner)
    _look_at_steps()


def discard(owner: Any) -> None:
    """Forget one."""
    _attached.discard(owner)


@lru_cache(maxsize=1)
def _look_at_steps() -> None:
    register_optimizer_step_pre_hook(_check_owner)


def remove_others(new: Any) -> None:
    """Remove what was attached to the same optimizer or layers: two would skip different things."""
    for old in list(_attached):
        if old.optimizer is new.optimizer or _shares(old, new.optimizer):
            LOGGER.warning(
                'WAU was attached to this optimizer or to these layers before; that is removed'
            )
            old.remove()


def _shares(attached: Any, optimizer: Optimizer) -> bool:
    """Whether an optimizer updates a layer that is held."""
    own = {id(param) for group in optimizer.param_groups for param in group['params']}
    layers = attached.layers.values()
    return any(id(param) in own for layer in layers for param, _ in layer.tensors)


def _check_owner(optimizer: Optimizer, *args: object) -> None:
    """Raise a RuntimeError if a step goes past WAU where gradients were skipped for it, or warn."""
    for attached in list(_attached):
        own = attached.optimizer
        if optimizer in (own, inner(own)):
            if not attached.is_stepping:
                raise RuntimeError(
                    f'A step of this {type(optimizer).__name__} goes past WAU: somebody has kept '
                    'its step from before attach, as Accelerate does with a GradScaler. Call '
                    'attach before, with Accelerate before prepare'
                )
        elif attached.is_stepping or not _shares(attached, optimizer):
            continue
        elif attached.is_under_way:
            raise RuntimeError(
                f'This {type(optimizer).__name__} steps parameters whose gradients were skipped '
                f'for the {type(own).__name__} that WAU is attached to. Call remove() of what '
                'attach returned before another optimizer takes over, or attach WAU to the '
                'outermost optimizer'
            )
        elif attached not in _warned:
            _warned.add(attached)
            LOGGER.warning(
                f'This {type(optimizer).__name__} steps layers of a {type(own).__name__} that WAU '
                'is attached to, and holds nothing'
            )


setattr(_check_owner, NEEDS_NO_WHOLE, True)
