"""Optimizer wrappers of MMEngine that hold slices through every step."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn

from mmwau.core.checks import check_choice
from mmwau.core.holds import can_step_active_alone
from mmwau.core.narrow_convolution import is_compiling
from mmwau.core.sharding import refuse_join, refuse_sharded, sharded
from mmwau.core.slices import Layer
from mmwau.skipping import check_skip
from mmwau.targets import AXES, DEFAULT_TARGETS, check_targets
from mmwau.traffic import ActiveTraffic, send_active_only
from mmwau.training.messages import Message
from mmwau.training.updates import Updates
from mmwau.wau import WAU

from .bare_model import bare_model
from .plan import Plan, Planned
from .resume import find_index, find_seed, keep_options
from .wrapper_checks import build_on_nothing, check_send, wrong_runner

if TYPE_CHECKING:  # WAUMixin is mixed into one of MMEngine's
    from mmengine.optim import OptimWrapper as Wrapper
else:
    Wrapper = object

# Key in the state of the optimizer, which is part of every checkpoint too.
STATE = 'wau'


class WAUMixin(Planned, Wrapper):
    """Adds weight asynchronous update to an optimizer wrapper of MMEngine.

    Args:
        *args: Arguments of the optimizer wrapper.
        update_ratio (float): See :class:`mmwau.wau.WAU`.
        axis (str): See :func:`mmwau.targets.find_layers`.
        sampler (str): See :class:`mmwau.wau.WAU`.
        hold (str): See :class:`mmwau.wau.WAU`.
        rescale (bool): See :class:`mmwau.wau.WAU`.
        targets (str or Sequence[str]): Module-name prefixes below which convolutions are held,
            matched by whole segments. Defaults to ``('backbone', 'neck')``.
        seed (int, optional): Seed of the selections. Defaults to the run's own seed.
        min_active (int): See :class:`mmwau.wau.WAU`.
        skip_held_grads (bool, optional): Whether the backward pass leaves out the gradients of
            held slices (:mod:`mmwau.skipping`), which only ``hold='weight'`` needs. Defaults to
            None: under the other holds.
        **kwargs: Arguments of the optimizer wrapper.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``update_ratio`` is outside (0, 1], a choice is unknown, or
            ``skip_held_grads`` is True under ``hold='weight'``.

    Attributes:
        wau: The rule.
        updates: The updates of the training under way, or None before.
        traffic: What processes send each other under :meth:`send_active_only`.
    """

    def __init__(
        self,
        *args: Any,
        update_ratio: float = 0.5,
        axis: str = 'out',
        sampler: str = 'uniform',
        hold: str = 'weight',
        rescale: bool = False,
        targets: str | Sequence[str] = DEFAULT_TARGETS,
        seed: int | None = None,
        min_active: int = 1,
        skip_held_grads: bool | None = None,
        **kwargs: Any,
    ):
        self._has_seed = seed is not None
        self.wau = WAU(
            update_ratio,
            sampler=sampler,
            hold=hold,
            rescale=rescale,
            seed=0 if seed is None else seed,
            min_active=min_active,
        )
        check_choice('axis', axis, AXES)
        self.axis = axis
        self.targets = check_targets(targets)
        self.skip_held_grads = check_skip(skip_held_grads, hold)
        self.updates: Updates | None = None
        self.traffic: ActiveTraffic | None = None
        self._loaded: dict = {}
        self._steps_at_once = False
        super().__init__(*args, **kwargs)

    @classmethod
    def check_config(cls, settings: dict, plan: Plan) -> None:
        """Raise if the wrapper can't be built with a config's settings, or in what it plans.

        Raises:
            TypeError: If an argument has the wrong type, or see :meth:`check`.
            ValueError: If a value is wrong, or mixed precision finds no accelerator.
        """
        build_on_nothing(cls, settings).check(plan)

    def check(self, plan: Plan) -> None:
        """Raise if the training is none for this.

        Raises:
            TypeError: If parameters are cut over processes, or the runner does not pass the model.
        """
        if plan.sharding is not None:
            raise TypeError(sharded(plan.sharding))
        if plan.runner != 'Runner':
            raise TypeError(wrong_runner(plan.runner))

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Find the layers to hold; the Runner calls this once, just before training.

        Args:
            model: The model, wrapped for distributed training or not.
            init_counts: Number of iterations done already (after a resume).
            max_counts: Number of iterations of the whole training.

        Raises:
            TypeError: If the model's parameters are cut over processes (FSDP and the like).
            ValueError: If there is no convolution to hold below ``targets``, or the optimizer does
                not fit (see :meth:`mmwau.wau.WAU.check_optimizer`).
        """
        super().initialize_count_status(model, init_counts, max_counts)
        refuse_sharded(model)
        loaded, self._loaded = self._loaded, {}
        self.wau = replace(self.wau, seed=self._find_seed(loaded))
        before = None if self.updates is None else self.updates.index
        inside, in_update = bare_model(model), self._accumulative_counts
        self.updates = Updates(
            inside,
            self.optimizer,
            self.wau,
            self.targets,
            self.axis,
            skips=self.skip_held_grads,
            # Wrappers for distributed training want a gradient of every parameter, in full.
            full_grads=inside is not model
            or self.wau.hold != 'state'
            or not can_step_active_alone(self.optimizer),
            index=find_index(loaded, before, init_counts, in_update),
            log=_log,
        )
        options = {
            **asdict(self.wau),
            'axis': self.axis,
            'targets': self.targets,
            'accumulative_counts': in_update,
        }
        for message in keep_options(self.message_hub, options, resumed=init_counts > 0):
            _log(message)

    def _find_seed(self, loaded: dict) -> int:
        given = self.wau.seed if self._has_seed else self.message_hub.get_info('seed')
        return find_seed(given, loaded)

    @property
    def layers(self) -> dict[str, Layer]:
        """The layers that are held, by name of their convolution; empty before training."""
        return {} if self.updates is None else self.updates.layers

    @property
    def update_ratio(self) -> float:
        """Fraction of slices that is active in an update, in (0, 1]; may be set at any time."""
        return self.wau.update_ratio

    @update_ratio.setter
    def update_ratio(self, update_ratio: float) -> None:
        if update_ratio != self.wau.update_ratio:
            self.wau = replace(self.wau, update_ratio=update_ratio)
            if self.updates is not None:
                self.updates.wau = self.wau

    def end_update(self) -> None:
        """End the update under way, if there is one, without a step."""
        if self.updates is not None:
            self.updates.end()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Surround the forward pass; the first one of an update selects its active slices.

        Args:
            model: The model, wrapped for distributed training or not.

        Raises:
            ValueError: If it trains inside of ``torch.distributed.algorithms.Join``.
        """
        refuse_join(model)
        with super().optim_context(model):
            if self.updates is None:
                yield
                return
            self.updates.start()
            with self.updates.skipping():
                yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Compute the gradients, without those of held slices where nobody reads them."""
        # torch.compile can't break off inside of our contexts; what it compiles skips nothing.
        if self.updates is None or is_compiling():
            super().backward(loss, **kwargs)
            return
        sending: AbstractContextManager[None] = nullcontext()
        if self.traffic is not None and self.updates.active is not None:
            sending = self.traffic.sending(self.layers, self.updates.skipped)
        # Activation checkpointing makes forward passes in here.
        with self.updates.skipping(), sending:
            super().backward(loss, **kwargs)
        if not self._steps_at_once:
            self.updates.flush()

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients and, at the end of a window of accumulation, make the update."""
        # Nobody sees the gradients in between, so that they need not be brought to their places.
        self._steps_at_once = True
        try:
            super().update_params(loss, *args, **kwargs)
        finally:
            self._steps_at_once = False
        if self.updates is not None:
            self.updates.flush()

    def step(self, **kwargs: Any) -> None:
        """Clip gradients and step the optimizer while the slices that are not active are held.

        Whatever fails in it, the update is over, and the next one selects anew.

        Args:
            **kwargs: Arguments of the optimizer's ``step``.

        Raises:
            RuntimeError: If :meth:`initialize_count_status` has not been called.
        """
        if self.updates is None:
            raise RuntimeError(
                f'{type(self).__name__} does not know the model yet. The Runner tells it; in '
                'a loop of your own call initialize_count_status(model, 0, max_iters) first, and '
                'update_params(loss) in each iteration.'
            )
        self.updates.step(super().step, **kwargs)

    def state_dict(self) -> dict:
        """Return the optimizer's state, with the number of updates and the seed."""
        state = super().state_dict()
        if self.updates is not None:
            state[STATE] = dict(updates=self.updates.index, seed=self.wau.seed)
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what :meth:`state_dict` returned; that of a run without WAU will do too."""
        state_dict = dict(state_dict)
        loaded = state_dict.pop(STATE, {})
        super().load_state_dict(state_dict)
        if self.updates is None:
            self._loaded = loaded
        elif loaded:
            self.updates.end()
            self.updates.index = loaded['updates']
            self.wau = self.updates.wau = replace(self.wau, seed=self._find_seed(loaded))

    def send_active_only(self, model: nn.Module) -> None:
        """Let the processes send each other the gradients of active slices alone.

        Args:
            model: The model, wrapped for distributed training.

        Raises:
            TypeError: If the model is not wrapped by ``DistributedDataParallel``.
            ValueError: If ``hold='weight'``, or the model has a communication hook already.
        """
        check_send(self.wau.hold)
        self.traffic = send_active_only(model)


def _log(message: Message) -> None:
    print_log(message.text, 'current', message.level)


@OPTIM_WRAPPERS.register_module()
class WAUOptimWrapper(WAUMixin, OptimWrapper):
    """``OptimWrapper`` with weight asynchronous update; see :class:`WAUMixin`."""


@OPTIM_WRAPPERS.register_module()
class WAUAmpOptimWrapper(WAUMixin, AmpOptimWrapper):
    """``AmpOptimWrapper`` with weight asynchronous update; see :class:`WAUMixin`."""
