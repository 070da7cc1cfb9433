"""WAU's seat in MMEngine: optimizer wrappers that hold slices through every step."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.nn import Parameter

from .slices import Layer
from .targets import AXES, check_targets, find_layers, find_left_out, is_below
from .wau import WAU, check_choice

DEFAULT_TARGETS = ('backbone', 'neck')
OPTIONS = 'wau_options'
SHARDED = ('FullyShardedDataParallel', 'MMDeepSpeedEngineWrapper', 'ColossalAIModelWrapper')


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
        **kwargs: Arguments of the optimizer wrapper.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``update_ratio`` is outside (0, 1], or a choice is unknown.
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
        **kwargs,
    ):
        self._has_seed = seed is not None
        self.wau = WAU(
            update_ratio, sampler, hold, rescale, seed if self._has_seed else 0, min_active
        )
        check_choice('axis', axis, AXES)
        self.axis = axis
        self.targets = check_targets(targets)
        self.layers: dict[str, Layer] = {}
        self._parameters: list[Parameter] = []
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
            ValueError: If there is no convolution to hold below ``targets``, or no seed.
        """
        super().initialize_count_status(model, init_counts, max_counts)
        refuse_sharded(model)
        if not self._has_seed:
            self.wau = replace(self.wau, seed=self._seed_of_run())
        self._model = model.module if is_model_wrapper(model) else model
        self._parameters = list(self._model.parameters())
        self._find_layers()
        self._log_changes(resumed=init_counts > 0)

    def _find_layers(self) -> None:
        where = self._model, self.targets, self.axis, self.optimizer
        self.layers = find_layers(*where)
        self._trains = [param.requires_grad for param in self._parameters]
        self._log_layers(find_left_out(*where))

    def _follow_freezing(self) -> None:
        """Find the layers anew after a stage was frozen or unfrozen in training."""
        try:
            self._find_layers()
        except ValueError as error:
            self.layers, self.active_fraction = {}, None
            self._trains = [param.requires_grad for param in self._parameters]
            print_log(f'WAU holds nothing from now on: {error}', 'current', logging.WARNING)

    def step(self, **kwargs) -> None:
        """Clip gradients and step the optimizer while the slices that are not active are held.

        Args:
            **kwargs: Arguments of the optimizer's ``step``.

        Raises:
            RuntimeError: If :meth:`initialize_count_status` has not been called.
        """
        if not self._parameters:
            raise RuntimeError(
                f'{type(self).__name__} does not know the model yet. The Runner tells it; in '
                'a loop of your own call initialize_count_status(model, 0, max_iters) first.'
            )
        if self._trains != [param.requires_grad for param in self._parameters]:
            self._follow_freezing()
        if not self.layers:
            super().step(**kwargs)
            return
        layers = self.layers.values()
        active = self.wau.select(layers, self.update_index)
        num_active = sum(int(mask.sum()) for mask in active)
        self.active_fraction = num_active / sum(layer.num_slices for layer in layers)
        with self.wau.holding(self.optimizer, layers, active):
            super().step(**kwargs)

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

    def _seed_of_run(self) -> int:
        seed = self.message_hub.get_info('seed')
        if seed is None:
            raise ValueError(
                f"seed=None of {type(self).__name__} means the run's own seed, which a Runner "
                'with its RuntimeInfoHook provides; there is none here: give an integer'
            )
        return int(seed)

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


def refuse_sharded(model: nn.Module) -> None:
    """Raise if a model's parameters are cut over processes: slices have no fixed place then.

    Raises:
        TypeError: If they are.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in SHARDED:
            raise TypeError(sharded(kind.__name__))


def sharded(kind: str) -> str:
    """Tell what to use instead of a way of training that cuts parameters over processes."""
    return (
        f'WAU does not work with {kind}, which cuts parameters over processes. Use '
        'MMDistributedDataParallel'
    )


@OPTIM_WRAPPERS.register_module()
class WAUOptimWrapper(WAUMixin, OptimWrapper):
    """``OptimWrapper`` with weight asynchronous update; see :class:`WAUMixin`."""


@OPTIM_WRAPPERS.register_module()
class WAUAmpOptimWrapper(WAUMixin, AmpOptimWrapper):
    """``AmpOptimWrapper`` with weight asynchronous update; see :class:`WAUMixin`."""
