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
from .held import can_step_active_alone
from .sharding import refuse_join, refuse_sharded
from .skipping import HeldGradSkipper
from .slices import Layer
from .targets import AXES, DEFAULT_TARGETS, check_targets, find_layers, find_left_out, is_below
from .traffic import ActiveTraffic, send_active_only
from .wau import WAU

OPTIONS = 'wau_options'


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
        # Of the update that is under way: the rule in force when it began, and its selection.
        self._rule: WAU | None = None
        self.active: list[Tensor] | None = None
        self._skipper: HeldGradSkipper | None = None
        self.traffic: ActiveTraffic | None = None
        self._parameters: list[Parameter] = []
        self._count_at_step = 0
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
        self._count_at_step = init_counts
        self.wau = replace(self.wau, seed=self._find_seed())
        self._is_wrapped = is_model_wrapper(model)
        self._model = model.module if self._is_wrapped else model
        self._parameters = list(self._model.parameters())
        self._find_layers()
        self._log_changes(resumed=init_counts > 0)

    def _find_layers(self) -> None:
        if self._skipper is not None:
            self._skipper.stop()
            self._skipper.flush()
        self.active = None
        where = self._model, self.targets, self.axis, self.optimizer
        self._trains = [param.requires_grad for param in self._parameters]
        self._skipper, self._has_told_skipping = None, False
        self.layers = {}
        self.layers = find_layers(*where)
        self._log_layers(find_left_out(*where))
        if self.skip_held_grads:
            alone = self.wau.hold == 'state' and can_step_active_alone(self.optimizer)
            # Wrappers for distributed training want a gradient of every parameter, in full.
            full_grads = self._is_wrapped or not alone
            self._skipper = HeldGradSkipper(self._model, self.layers, full_grads)

    def _follow_freezing(self) -> None:
        """Find the layers anew after a stage was frozen or unfrozen in training."""
        if self._trains == [param.requires_grad for param in self._parameters]:
            return
        try:
            self._find_layers()
        except ValueError as error:
            self.active_fraction = None
            print_log(f'WAU holds nothing from now on: {error}', 'current', logging.WARNING)

    def _start_update(self, update: int) -> None:
        """Select the active slices, once in an update, and skip the gradients of the others."""
        if self._rule is None:
            self._rule = self.wau
        self._follow_freezing()
        if self.active is not None or not self.layers:
            return
        self.active = self._rule.select(self.layers, update)
        num_active = int(torch.cat(self.active).sum())
        self.active_fraction = num_active / sum(map(len, self.active))
        if self._skipper is not None:
            self._skipper.start(self.active)
        if self.traffic is not None:
            self.traffic.start(self.layers, self.active)

    def end_update(self) -> None:
        """Leave the model as it was before the update; after a step nothing is left to do."""
        self._rule = self.active = None
        if self._skipper is not None:
            self._skipper.stop()
        if self.traffic is not None:
            self.traffic.stop()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Surround the forward pass; the first one of an update selects its active slices.

        Args:
            model: The model, wrapped for distributed training or not.

        Raises:
            ValueError: If it trains inside of ``torch.distributed.algorithms.Join``.
        """
        refuse_join(model)
        if self._parameters:
            self._start_update(self._inner_count // self._accumulative_counts)
        with super().optim_context(model):
            yield

    def step(self, **kwargs) -> None:
        """Clip gradients and step the optimizer while the slices that are not active are held.

        Args:
            **kwargs: Arguments of the optimizer's ``step``.

        Raises:
            RuntimeError: If :meth:`initialize_count_status` has not been called, or no backward
                pass went through the wrapper since the last step.
        """
        if not self._parameters:
            raise RuntimeError(
                f'{type(self).__name__} does not know the model yet. The Runner tells it; in '
                'a loop of your own call initialize_count_status(model, 0, max_iters) first, and '
                'update_params(loss) in each iteration.'
            )
        if self._inner_count == self._count_at_step:
            raise RuntimeError(
                f'{type(self).__name__} counts iterations by its own backward, which was not '
                'called since the last step: every update would select the same slices. Call '
                'update_params(loss), or backward(loss) of the wrapper instead of loss.backward()'
            )
        self._count_at_step = self._inner_count
        self._start_update(self.update_index)
        if self.active is None:
            super().step(**kwargs)
        else:
            grads = None if self._skipper is None else self._skipper.grads
            if grads and not can_step_active_alone(self.optimizer):  # somebody has hooked into it
                self._skipper.flush()
            with self._rule.holding(self.optimizer, self.layers, self.active, grads):
                super().step(**kwargs)
            self._tell_skipping()
        self.end_update()

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

    @property
    def update_index(self) -> int:
        """Index of the update that the backward pass just done belongs to, from 0.

        With gradient accumulation several iterations make one update.
        """
        return (self._inner_count - 1) // self._accumulative_counts

    def _find_seed(self) -> int:
        seed = self.wau.seed if self._has_seed else self.message_hub.get_info('seed')
        if seed is None:
            raise ValueError(
                f"seed=None of {type(self).__name__} means the run's own seed, which a Runner "
                'with its RuntimeInfoHook provides; there is none here: give an integer'
            )
        # Each process may have its own, as with diff_rank_seed. The first one's counts, which is
        # the one in the checkpoints.
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
            expected = reason == 'frozen'
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
