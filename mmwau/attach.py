"""One call for any PyTorch loop: an optimizer of ``torch.optim`` becomes one with WAU.

::

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    attach(optimizer, model, update_ratio=0.5)

Nothing else in the loop changes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from mmwau.core.narrow_convolution import is_compiling
from mmwau.core.sharding import refuse_join, refuse_sharded
from mmwau.core.slices import Layer
from mmwau.training import owners
from mmwau.training.module_hook import ModuleHook, Passes
from mmwau.training.updates import Updates

from .skipping import Patch, check_skip
from .targets import check_targets
from .wau import WAU

# Key in the optimizer's state_dict.
STATE = 'wau'
# Optimizers of Accelerate and Lightning around another one, with which they make their steps.
AROUND = ('AcceleratedOptimizer', 'LightningOptimizer', '_FabricOptimizer')


def attach(
    optimizer: Optimizer,
    model: nn.Module,
    update_ratio: float = 0.5,
    *,
    axis: str = 'out',
    sampler: str = 'uniform',
    hold: str = 'weight',
    rescale: bool = False,
    targets: str | Sequence[str] = ('',),
    seed: int | None = None,
    min_active: int = 1,
    skip_held_grads: bool | None = None,
) -> 'Attached':
    """Make every step of an optimizer an update of WAU.

    Each call of ``optimizer.step()`` is one update; with gradient accumulation there are several
    backward passes in one. The number of updates and the seed are saved and loaded with
    ``optimizer.state_dict()``. What works with gradients before the step, such as clipping and
    ``GradScaler``, sees zeros for what is skipped.

    Args:
        optimizer: The optimizer. It is changed in place and stays of its class.
        model: The model, in ``DistributedDataParallel`` or not.
        update_ratio: See :class:`mmwau.WAU`.
        axis: See :func:`mmwau.find_layers`.
        sampler: See :class:`mmwau.WAU`.
        hold: See :class:`mmwau.WAU`.
        rescale: See :class:`mmwau.WAU`.
        targets: Module-name prefixes of the layers to hold, see :func:`mmwau.find_layers`. Defaults
            to the whole model.
        seed: Seed of the selections. Defaults to that of ``torch.manual_seed``, in several
            processes the first one's.
        min_active: See :class:`mmwau.WAU`.
        skip_held_grads: Whether the backward pass leaves out the gradients of held slices
            (:mod:`mmwau.skipping`), which only ``hold='weight'`` needs. Defaults to None: under
            the other holds.

    Returns:
        What undoes it, by its :meth:`Attached.remove`.

    Raises:
        TypeError: If an argument has the wrong type, or parameters are cut over processes.
        ValueError: If an argument has a wrong value, there is no convolution to hold, or the
            optimizer does not fit (see :meth:`mmwau.WAU.check_optimizer`).
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            'optimizer must be one of torch.optim or derived from torch.optim.Optimizer, got '
            f'{type(optimizer).__name__}. The order is attach(optimizer, model)'
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f'model must be a torch.nn.Module, got {type(model).__name__}')
    wau = WAU(
        update_ratio,
        sampler=sampler,
        hold=hold,
        rescale=rescale,
        seed=torch.initial_seed() if seed is None else seed,
        min_active=min_active,
    )
    refuse_sharded(model)
    if any(kind.__name__ in AROUND for kind in type(optimizer).__mro__):
        optimizer = optimizer.optimizer  # type: ignore[attr-defined]  # these have one
    if not hasattr(optimizer, '_optimizer_state_dict_post_hooks'):
        raise TypeError(
            f'{type(optimizer).__name__} does not take hooks, since it does not call the __init__ '
            'of torch.optim.Optimizer (or torch is older than these hooks). Attach WAU to the '
            'optimizer inside of it, or hold slices with mmwau.WAU around its step'
        )
    skips = check_skip(skip_held_grads, hold)
    return Attached(optimizer, model, wau, check_targets(targets), axis, skips, seed is not None)


class Attached:
    """WAU on an optimizer; :func:`attach` makes it.

    Attributes:
        optimizer: The optimizer.
        wau: The rule in force.
        is_stepping: Whether a step is under way.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        wau: WAU,
        targets: tuple[str, ...],
        axis: str,
        skips: bool,
        has_seed: bool,
    ):
        self.optimizer, self.wau = optimizer, wau
        self._wrapped = model
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        self._has_seed, self._shares_seed = has_seed, False
        self._hooks: list[RemovableHandle] = []
        self._passes = Passes()
        # By which the skipper goes; it is found at the beginning of an update.
        self._selected: list[Tensor] | None = None
        self._is_attached, self.is_stepping = True, False
        self._updates = Updates(
            model,
            optimizer,
            wau,
            targets,
            axis,
            skips=skips,
            # Who clips or unscales outside of the step wants all gradients in their places.
            full_grads=True,
            index=0,
            log=lambda message: owners.LOGGER.log(*message),
            on_change=self._hook_convolutions,
        )
        owners.remove_others(self)
        self._state_hooks = [
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._load),
        ]
        self._inner_step, self._own_step = optimizer.step, optimizer.__dict__.get('step')

        @wraps(self._inner_step)
        def step(_: Optimizer, *args: object, **kwargs: object) -> object:
            return self.step(*args, **kwargs)

        # A method, as schedules that count steps expect it.
        self._step = MethodType(step, optimizer)
        optimizer.step = self._step  # type: ignore[method-assign]  # of this optimizer alone
        self._hook_convolutions()
        owners.add(self)

    def __reduce__(self) -> tuple:
        # Copies of a module that keeps this, or of an optimizer, are plain.
        return type(None), ()

    @property
    def layers(self) -> dict[str, Layer]:
        """The layers that are held, by name of their convolution."""
        return self._updates.layers

    @property
    def update_index(self) -> int:
        """Index of the update under way, which is the number of steps that were made before."""
        return self._updates.index

    @property
    def active_fraction(self) -> float | None:
        """Fraction of all slices that was active in the last update; None before the first."""
        return self._updates.active_fraction

    @property
    def update_ratio(self) -> float:
        """Fraction of slices that is active in an update, in (0, 1]; may be set at any time."""
        return self.wau.update_ratio

    @update_ratio.setter
    def update_ratio(self, update_ratio: float) -> None:
        self.wau = self._updates.wau = replace(self.wau, update_ratio=update_ratio)

    def remove(self) -> None:
        """Make the optimizer and the model what they were; calling it again does nothing."""
        if not self._is_attached:
            return
        self._is_attached = False
        owners.discard(self)
        for hook in (*self._state_hooks, *self._hooks):
            hook.remove()
        self._passes.leave_all()
        if self._updates.skipper is not None:
            self._updates.skipper.stop()
            self._updates.skipper.forget()
        # A schedule made after attach has wrapped our step, which from now on is the inner one.
        if self.optimizer.__dict__.get('step') is self._step:
            if self._own_step is None:
                del self.optimizer.step
            else:
                self.optimizer.step = self._own_step  # type: ignore[method-assign]  # as it was

    def step(self, *args: Any, **kwargs: Any) -> object:
        """Make one update; what ``optimizer.step`` calls.

        Args:
            *args: Arguments of the optimizer's own step.
            **kwargs: Arguments of the optimizer's own step.

        Returns:
            What that returns, or the loss of the closure.
        """
        if not self._is_attached:
            return self._inner_step(*args, **kwargs)
        refuse_join(self._wrapped)
        self._passes.leave_all()
        self._share_seed()
        self.is_stepping = True
        try:
            return self._updates.step(self._inner_step, *args, **kwargs)
        finally:
            self.is_stepping = False

    def _hook_convolutions(self) -> None:
        """Let each convolution skip in its own forward pass, whoever calls it."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._updates.skipper is None:
            return
        for module, patch in self._updates.skipper.convolutions:
            self._hooks += [
                module.register_forward_pre_hook(ModuleHook(Attached._before_forward, self, patch)),
                module.register_forward_hook(
                    # First, so that hooks of others see what they see without WAU.
                    ModuleHook(Attached._after_forward, self, patch),
                    always_call=True,
                    prepend=True,
                ),
            ]

    def _before_forward(self, patch: Patch, *args: object) -> None:
        if is_compiling():
            return
        # The last one may have ended in a way in which torch calls no hooks.
        self._passes.leave(patch)
        if (
            not torch.is_grad_enabled()
            or not patch.module.training
            or not patch.weight.requires_grad
            or torch.jit.is_tracing()
        ):
            return
        skipper = self._updates.skipper
        if self._updates.active is None:
            self._share_seed()
            self._updates.start()
            if self._updates.active is None or self._updates.skipper is not skipper:
                return
        if skipper is not None and self._selected is not self._updates.skipped:
            skipper.select(self._updates.skipped)
            self._selected = self._updates.skipped
        self._passes.enter(patch)

    def _after_forward(self, patch: Patch, output: object = None) -> object:
        return None if is_compiling() else self._passes.leave(patch, output)

    def _share_seed(self) -> None:
        """Take the seed of the first process, once there are several."""
        if self._shares_seed or not (distributed.is_available() and distributed.is_initialized()):
            return
        seeds = [self.wau.seed]
        distributed.broadcast_object_list(seeds)
        self.wau = self._updates.wau = replace(self.wau, seed=seeds[0])
        self._shares_seed = True

    @property
    def is_under_way(self) -> bool:
        """Whether gradients were perhaps skipped since the last step."""
        return self._updates.skipper is not None and self._updates.active is not None

    def _save(self, optimizer: Optimizer, state_dict: dict) -> None:
        state_dict[STATE] = dict(updates=self._updates.index, seed=self.wau.seed)

    def _load(self, optimizer: Optimizer, state_dict: dict) -> None:
        loaded = state_dict.get(STATE)
        if loaded is None:
            return
        self._updates.end()
        self._updates.index = loaded['updates']
        if not self._has_seed:
            self.wau = self._updates.wau = replace(self.wau, seed=loaded['seed'])
