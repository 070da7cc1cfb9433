"""WAU's seat in MMEngine: optimizer wrappers that hold slices through every step."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from .targets import AXES, check_targets, find_layers, find_left_out, is_below
from .wau import WAU, Layer, check_choice


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
        targets: str | Sequence[str] = ('backbone', 'neck'),
        seed: int | None = None,
        **kwargs,
    ):
        self._has_seed = seed is not None
        self.wau = WAU(update_ratio, sampler, hold, rescale, seed if self._has_seed else 0)
        check_choice('axis', axis, AXES)
        self.axis = axis
        self.targets = check_targets(targets)
        self.layers: dict[str, Layer] = {}
        self.active_fraction: float | None = None
        super().__init__(*args, **kwargs)

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Find the layers to hold; the Runner calls this once, just before training.

        Args:
            model: The model, wrapped for distributed training or not.
            init_counts: Number of iterations done already (after a resume).
            max_counts: Number of iterations of the whole training.

        Raises:
            ValueError: If there is no convolution to hold below ``targets``, or no seed.
        """
        super().initialize_count_status(model, init_counts, max_counts)
        if not self._has_seed:
            self.wau = replace(self.wau, seed=self._seed_of_run())
        module = model.module if is_model_wrapper(model) else model
        where = module, self.targets, self.axis, self.optimizer
        self.layers = find_layers(*where)
        self._log_layers(find_left_out(*where))

    def step(self, **kwargs) -> None:
        """Clip gradients and step the optimizer while the slices that are not active are held.

        Args:
            **kwargs: Arguments of the optimizer's ``step``.

        Raises:
            RuntimeError: If :meth:`initialize_count_status` has not been called.
        """
        if not self.layers:
            raise RuntimeError(
                f'{type(self).__name__} does not know the model yet. The Runner tells it; in '
                'a loop of your own call initialize_count_status(model, 0, max_iters) first.'
            )
        layers = self.layers.values()
        active = self.wau.select(layers, self.update_index)
        num_active = sum(int(mask.sum()) for mask in active)
        self.active_fraction = num_active / sum(layer.num_slices for layer in layers)
        with self.wau.holding(self.optimizer, layers, active):
            super().step(**kwargs)

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
        for reason, count in Counter(left_out.values()).items():
            names = [name for name, why in left_out.items() if why == reason]
            print_log(
                f'WAU leaves out {count} convolutions ({reason}): {", ".join(names[:3])}'
                f'{", ..." if count > 3 else ""}',
                logger='current',
            )
        for prefix in self.targets:
            if not any(is_below(name, prefix) for name in (*self.layers, *left_out)):
                print_log(
                    f'WAU finds no convolution below {prefix!r}, one of its targets',
                    logger='current',
                    level=logging.WARNING,
                )


@OPTIM_WRAPPERS.register_module()
class WAUOptimWrapper(WAUMixin, OptimWrapper):
    """``OptimWrapper`` with weight asynchronous update; see :class:`WAUMixin`."""


@OPTIM_WRAPPERS.register_module()
class WAUAmpOptimWrapper(WAUMixin, AmpOptimWrapper):
    """``AmpOptimWrapper`` with weight asynchronous update; see :class:`WAUMixin`."""
