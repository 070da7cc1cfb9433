"""WAU's seat in MMEngine: optimizer wrappers that hold slices through every step."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import torch
from mmengine.dist import broadcast_object_list
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.nn import Parameter

from .checks import check_choice
from .held import can_step_active_alone, each_on_leaving
from .sharding import refuse_sharded
from .skipping import HeldGradSkipper, is_compiling
from .slices import Layer
from .targets import (
    AXES,
    DEFAULT_TARGETS,
    check_targets,
    find_layers,
    find_left_out,
    is_below,
    list_updated,
)
from .traffic import ActiveTraffic, send_active_only
from .wau import WAU

OPTIONS = 'wau_options'
# Keys of the optimizer's state in a checkpoint.
UPDATES = 'wau_updates'


class WAUMixin:
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
        layers: The layers that are held, by name of their convolution.
        update_index: Index of the update under way, which is the number of steps that were made
            before. It is saved with the optimizer's state.
        active: The selection of the update under way, as :meth:`mmwau.wau.WAU.select` returns it,
            or None between updates.
        active_fraction: Fraction of all slices that is active in this update, in (0, 1].
    """

    def __init__(
        self,
        *args,
        update_ratio: float = 0.5,
        axis: str = 'out',
        sampler: str = 'uniform',
        hold: str = 'weight',
        rescale: bool = False,
        targets: str | Sequence[str] = DEFAULT_TARGETS,
        seed: int | None = None,
        min_active: int = 1,
        skip_held_grads: bool | None = None,
        **kwargs,
    ):
        self._has_seed = seed is not None
        self.wau = WAU(
            update_ratio,
            sampler=sampler,
            hold=hold,
            rescale=rescale,
            seed=seed if self._has_seed else 0,
            min_active=min_active,
        )
        check_choice('axis', axis, AXES)
        self.axis = axis
        self.targets = check_targets(targets)
        self.skip_held_grads = check_skip(skip_held_grads, hold)
        self.layers: dict[str, Layer] = {}
        self.update_index = 0
        self._loaded_index: int | None = None
        # Of the update that is under way: the rule in force when it began, and its selection.
        self._rule: WAU | None = None
        self.active: list[Tensor] | None = None
        self._skipper: HeldGradSkipper | None = None
        self.traffic: ActiveTraffic | None = None
        self._model: nn.Module | None = None
        self.active_fraction: float | None = None
        super().__init__(*args, **kwargs)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Find the layers to hold; the Runner calls this once, just before training.

        Args:
            model: The model, wrapped for distributed training or not.
            init_counts: Number of iterations done already (after a resume).
            max_counts: Number of iterations of the whole training.

        Raises:
            TypeError: If the model's parameters are cut over processes (FSDP and the like).
            ValueError: If there is no convolution to hold below ``targets``, no seed, or the
                optimizer does not fit (see :meth:`mmwau.wau.WAU.check_optimizer`).
        """
        super().initialize_count_status(model, init_counts, max_counts)
        refuse_sharded(model)
        self.wau.check_optimizer(self.optimizer)
        self.update_index = init_counts // self._accumulative_counts
        if self._loaded_index is not None:
            self.update_index, self._loaded_index = self._loaded_index, None
        if not self._has_seed:
            self.wau = replace(self.wau, seed=self._seed_of_run())
        self._is_wrapped = is_model_wrapper(model)
        self._model = model.module if self._is_wrapped else model
        self._rule = None
        self._find_layers()
        self._log_changes(resumed=init_counts > 0)

    def _find_layers(self) -> None:
        if self._skipper is not None:
            self._skipper.flush()
        self.active = None
        where = self._model, self.targets, self.axis, self.optimizer
        self._parameters = self._list_parameters()
        self._skipper, self._has_told_skipping = None, False
        self.layers = {}
        self.layers = find_layers(*where)
        self._log_layers(find_left_out(*where))
        if self.skip_held_grads:
            alone = self.wau.hold == 'state' and can_step_active_alone(self.optimizer)
            # Wrappers for distributed training want a gradient of every parameter, in full.
            full_grads = self._is_wrapped or not alone
            self._skipper = HeldGradSkipper(self._model, self.layers, full_grads)

    def _list_parameters(self) -> list[tuple[Parameter, bool]]:
        """All that decides which layers are held: parameters in their order, and which train.

        First those of the model, then those that the optimizer updates.
        """
        of_model = [
            (param, param.requires_grad)
            for module in self._model.modules()
            for param in module._parameters.values()
            if param is not None
        ]
        return of_model + list_updated(self.optimizer)

    def _follow_changes(self) -> None:
        """Find the layers anew after parameters came, went, were frozen or unfrozen in training."""
        now, before = self._list_parameters(), self._parameters
        if len(now) == len(before) and all(
            param is old and trains == trained
            for (param, trains), (old, trained) in zip(now, before, strict=True)
        ):
            return
        try:
            self._find_layers()
        except ValueError as error:
            self.active_fraction = None
            print_log(f'WAU holds nothing from now on: {error}', 'current', logging.WARNING)

    def _start_update(self) -> None:
        """Select the active slices, once in an update."""
        if self._rule is None:
            self._rule = self.wau
        self._follow_changes()
        if self.active is not None or not self.layers:
            return
        self.active = self._rule.select(self.layers, self.update_index)
        num_active = int(torch.cat(self.active).sum())
        self.active_fraction = num_active / sum(map(len, self.active))

    def end_update(self) -> None:
        """End the update, whether its step was made or not; the next one selects anew."""
        self._rule = self.active = None
        if self._skipper is not None:
            self._skipper.flush()

    @contextmanager
    def _skipping(self) -> Iterator[None]:
        """Skip the gradients of held slices in the forward or backward passes made inside."""
        if self._skipper is None or self.active is None:
            yield
        else:
            with self._skipper.skipping(self.active):
                yield

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Leave held slices out of what processes send in the backward passes made inside."""
        if self.traffic is None or self.active is None:
            yield
        else:
            self.traffic.start(self.layers, self.active)
            try:
                yield
            finally:
                self.traffic.stop()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Surround the forward pass; the first one of an update selects its active slices.

        Args:
            model: The model, wrapped for distributed training or not.
        """
        if self._model is not None:
            self._start_update()
        with super().optim_context(model), self._skipping():
            yield

    def backward(self, loss: Tensor, **kwargs) -> None:
        """Compute the gradients, without those of held slices where nobody reads them.

        Args:
            loss: The loss, a scalar.
            **kwargs: Arguments of ``Tensor.backward``.
        """
        if is_compiling():  # it can't break off inside of our contexts, and skips nothing
            super().backward(loss, **kwargs)
            return
        # Activation checkpointing makes forward passes in here.
        with self._skipping(), self._sending():
            super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        """Clip gradients and step the optimizer while the slices that are not active are held.

        Whatever fails in it, the update is over, and the next one selects anew.

        Args:
            **kwargs: Arguments of the optimizer's ``step``.

        Raises:
            RuntimeError: If :meth:`initialize_count_status` has not been called.
        """
        if self._model is None:
            raise RuntimeError(
                f'{type(self).__name__} does not know the model yet. The Runner tells it; in '
                'a loop of your own call initialize_count_status(model, 0, max_iters) first, and '
                'update_params(loss) in each iteration.'
            )
        with each_on_leaving() as put_in_order:
            put_in_order.append(self.end_update)
            self._start_update()
            self.update_index += 1
            if self.active is None:
                super().step(**kwargs)
                return
            grads = None if self._skipper is None else self._skipper.grads
            if grads and not can_step_active_alone(self.optimizer):  # somebody hooks into it
                self._skipper.flush()
            with self._rule.holding(self.optimizer, self.layers, self.active, grads):
                super().step(**kwargs)
            self._tell_skipping()

    def state_dict(self) -> dict:
        """Return the optimizer's state, and the number of updates that were made."""
        return {**super().state_dict(), UPDATES: self.update_index}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what :meth:`state_dict` returned; that of a run without WAU will do too.

        Args:
            state_dict: The state.
        """
        state_dict = dict(state_dict)
        self._loaded_index = state_dict.pop(UPDATES, None)
        if self._loaded_index is not None:
            self.update_index = self._loaded_index
        super().load_state_dict(state_dict)

    def zero_grad(self, **kwargs) -> None:
        """Make all gradients zero, also those that :mod:`mmwau.skipping` keeps aside.

        Args:
            **kwargs: Arguments of the optimizer's ``zero_grad``.
        """
        if self._skipper is not None:
            self._skipper.grads.clear()
        super().zero_grad(**kwargs)

    def _tell_skipping(self) -> None:
        """Log after the first update in how many layers gradients are skipped, and why not."""
        if self._skipper is None or self._has_told_skipping or self.active_fraction == 1:
            return
        self._has_told_skipping = True
        full = self._skipper.find_full()
        skipping, all_layers = len(self.layers) - len(full), len(self.layers)
        print_log(
            f'WAU skips the gradients of held slices in {skipping} of {all_layers} layers',
            logger='current',
            level=logging.INFO if skipping else logging.WARNING,
        )
        reasons = Counter(full.values())
        for reason, count in reasons.items():
            print_log(f'WAU computes all gradients of {count} layers: {reason}', logger='current')

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

    @property
    def update_ratio(self) -> float:
        """Fraction of slices that is active in an update, in (0, 1]; may be set at any time."""
        return self.wau.update_ratio

    @update_ratio.setter
    def update_ratio(self, update_ratio: float) -> None:
        if update_ratio != self.wau.update_ratio:
            self.wau = replace(self.wau, update_ratio=update_ratio)

    def _seed_of_run(self) -> int:
        seed = self.message_hub.get_info('seed')
        if seed is None:
            raise ValueError(
                f"seed=None of {type(self).__name__} means the run's own seed, which a Runner "
                'with its RuntimeInfoHook provides; there is none here: give an integer'
            )
        # With diff_rank_seed each process has its own; the first one's is in the checkpoints.
        seeds = [int(seed)]
        broadcast_object_list(seeds)
        return seeds[0]

    def _log_layers(self, left_out: dict[str, str]) -> None:
        slices = 'filters' if self.axis == 'out' else 'input channels'
        num_slices = sum(layer.num_slices for layer in self.layers.values())
        print_log(
            f'WAU holds slices of {len(self.layers)} convolutions below {", ".join(self.targets)} '
            f'with {num_slices} {slices}: update_ratio={self.wau.update_ratio}, '
            f'axis={self.axis!r}, sampler={self.wau.sampler!r}, hold={self.wau.hold!r}, '
            f'rescale={self.wau.rescale}, seed={self.wau.seed}',
            logger='current',
        )
        self._log_small_layers()
        for reason, count in Counter(left_out.values()).items():
            names = [name for name, why in left_out.items() if why == reason]
            # What is frozen is so on purpose; of the rest every name is worth knowing.
            expected = reason.startswith('frozen')
            print_log(
                f'WAU leaves out {count} convolutions ({reason}): '
                + (
                    ', '.join(names[:3]) + (', ...' if count > 3 else '')
                    if expected
                    else ', '.join(names)
                ),
                logger='current',
                level=logging.INFO if expected else logging.WARNING,
            )
        for prefix in self.targets:
            if not any(is_below(name, prefix) for name in (*self.layers, *left_out)):
                print_log(
                    f'WAU finds no convolution below {prefix!r}, one of its targets',
                    logger='current',
                    # That a classifier has no neck is no fault; a name that was given may be.
                    level=logging.INFO if self.targets == DEFAULT_TARGETS else logging.WARNING,
                )

    def _log_changes(self, resumed: bool) -> None:
        """Tell what changed since the checkpoint that training resumes from."""
        options = {
            **asdict(self.wau),
            'axis': self.axis,
            'targets': self.targets,
            'accumulative_counts': self._accumulative_counts,
        }
        before = self.message_hub.get_info(OPTIONS)
        # The message hub is part of every checkpoint.
        self.message_hub.update_info(OPTIONS, options)
        if not resumed:
            return
        if before is None:
            print_log('WAU: the run was trained without WAU until here', logger='current')
            return
        for name, value in options.items():
            if value != before.get(name, value):
                print_log(
                    f'WAU: {name} was {before[name]!r} until here and is {value!r} from now on',
                    logger='current',
                    level=logging.WARNING,
                )

    def _log_small_layers(self) -> None:
        small = [
            name
            for name, layer in self.layers.items()
            if self.wau.num_drawn(layer.num_slices) == 0 and self.wau.sampler != 'bernoulli'
        ]
        if small:
            print_log(
                f'WAU: at this ratio the number of draws is rounded to 0 in {len(small)} layers, '
                + ('which never move' if self.wau.min_active == 0 else 'of which one slice moves')
                + f' (min_active={self.wau.min_active}): {", ".join(small[:3])}'
                + (', ...' if len(small) > 3 else ''),
                logger='current',
                level=logging.WARNING if self.wau.min_active == 0 else logging.INFO,
            )


def check_send(hold: str) -> None:
    """Raise if the gradients of held slices are needed and so can't be left out of what is sent."""
    if hold == 'weight':
        raise ValueError(
            "WAUHook: send_active_only=True does not go with hold='weight', under which the "
            "optimizer's state takes the gradients of held slices too. Set "
            "optim_wrapper.hold='state', or leave send_active_only out"
        )


def check_skip(skip_held_grads: bool | None, hold: str) -> bool:
    """Return whether to skip the gradients of held slices; raise where it can't be done."""
    if skip_held_grads not in (None, True, False):
        raise TypeError(
            'skip_held_grads must be True, False or None (where it can be done), got '
            f'{skip_held_grads!r}'
        )
    if skip_held_grads and hold == 'weight':
        raise ValueError(
            "skip_held_grads=True does not go with hold='weight': the optimizer's state takes the "
            "gradients of held slices too. Use hold='state', or leave skip_held_grads out"
        )
    return hold != 'weight' if skip_held_grads is None else bool(skip_held_grads)


@OPTIM_WRAPPERS.register_module()
class WAUOptimWrapper(WAUMixin, OptimWrapper):
    """``OptimWrapper`` with weight asynchronous update; see :class:`WAUMixin`."""


@OPTIM_WRAPPERS.register_module()
class WAUAmpOptimWrapper(WAUMixin, AmpOptimWrapper):
    """``AmpOptimWrapper`` with weight asynchronous update; see :class:`WAUMixin`."""
