"""Evaluate a network of OpenMMLab with filters removed, without the talk of an evaluation."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from numbers import Real

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint
from torch import Tensor

from mmwau.scripts.checkpoint import check_checkpoint
from mmwau.scripts.preflight import check_test_config

from .prune_results import Point
from .pruning import Removable, average_zeros, num_removed, removal_order, removed
from .taylor import taylor_criterion
from .training_loss import training_losses

NEEDED_PARTS = ('model', 'test_dataloader', 'test_evaluator', 'test_cfg')
# The parts of a config that a measurement depends on: a WAU config and its baseline share them.
# MMPreTrain has the data_preprocessor beside the model, MMDetection in it.
MEASURED_PARTS = ('default_scope', 'data_preprocessor', *NEEDED_PARTS)
DEFAULT_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def prepare(cfg: Config, checkpoints: Sequence[str]) -> None:
    """Check the config and the files it needs, and leave in it what testing needs.

    Raises:
        FileNotFoundError: If a checkpoint or something of the test data does not exist.
        ValueError: If one of them is not what it should be, or the config has no test data.
        NotADirectoryError: If the work_dir is a file.
        PermissionError: If the work_dir can't be written to.
    """
    missing = [key for key in NEEDED_PARTS if cfg.get(key) is None]
    if missing:
        raise ValueError(f'The config has no {", ".join(missing)}, which evaluation needs')
    for checkpoint in checkpoints:
        if '://' in checkpoint:
            raise ValueError(f'The checkpoint {checkpoint} is an address; fetch the file first')
        check_checkpoint(checkpoint)
    cfg.load_from = checkpoints[0]
    check_test_config(cfg)
    # Hooks log, draw and train; what they would say of each evaluation is not wanted.
    cfg.default_hooks = dict.fromkeys(DEFAULT_HOOKS)
    cfg.custom_hooks = []
    cfg.resume = False
    # A detector that finds nothing is an error in MMDetection's log, and a result here.
    cfg.log_level = 'CRITICAL'


class Tick(Hook):
    """Reports after each batch what fraction of the evaluation is done."""

    def __init__(self, tick: Callable[[float], None]):
        self.tick = tick

    def after_test_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Report it."""
        self.tick(1 / len(runner.test_dataloader))


def quiet() -> redirect_stdout:
    """Within the context nothing is printed, as pycocotools does for each evaluation."""
    return redirect_stdout(io.StringIO())


def load_weights(runner: Runner, path: str) -> None:
    """Load a checkpoint into the runner's model; hooks, which may not be ready, take no part.

    Raises:
        ValueError: If it has other weights than the network.
    """
    try:
        with quiet():
            load_checkpoint(runner.model, path, map_location='cpu', strict=True)
    except RuntimeError as error:
        raise ValueError(
            f'The checkpoint {path} does not fit the network of the config; name the config it was '
            f'trained with. {error}'
        ) from error


def evaluate(runner: Runner) -> dict[str, float]:
    """The metrics of the model as it is, those that are numbers."""
    with quiet():
        metrics = runner.test_loop.run()
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
    }


@torch.no_grad()
def run_first_images(runner: Runner, count: int) -> None:
    """Run the model on the first images of the test data, through the config's pipeline."""
    runner.model.eval()
    loader = runner.test_dataloader
    count, size = min(count, len(loader.dataset)), loader.batch_size or 1
    for start in range(0, count, size):
        images = [loader.dataset[index] for index in range(start, min(start + size, count))]
        runner.model.test_step(loader.collate_fn(images))


class Measurements:
    """Evaluates the model with filters removed.

    Args:
        runner: Its model has the layers.
        layers: Layers by name.
        images: By order, of ``'apoz'`` and ``'taylor'``, the number of images that it looks at.
    """

    def __init__(self, runner: Runner, layers: Mapping[str, Removable], images: Mapping[str, int]):
        self.runner, self.layers, self.images = runner, layers, images

    def load(self, path: str, orders: Sequence[str], seeds: Sequence[int]) -> None:
        """Load a checkpoint and find out the orders of its filters."""
        load_weights(self.runner, path)
        measured: dict[str, dict[str, Tensor]] = {}
        if 'apoz' in orders:
            measured['apoz'] = average_zeros(
                self.layers, lambda: run_first_images(self.runner, self.images['apoz'])
            )
        if 'taylor' in orders:
            with quiet():
                losses = training_losses(self.runner, self.images['taylor'])
                measured['taylor'] = taylor_criterion(self.runner.model, self.layers, losses)
        self.ranked = {
            (order, seed, name): removal_order(
                layer, order, seed, measured.get(order, {}).get(name)
            )
            for order in orders
            for seed in (seeds if order == 'random' else [None])
            for name, layer in self.layers.items()
        }

    def watch(self, tick: Callable[[float], None]) -> None:
        """Report again and again what fraction of a measurement has been done meanwhile."""
        self.runner.register_hook(Tick(tick))

    def measure(self, point: Point) -> dict[str, float]:
        """The metrics of the checkpoint that is loaded."""
        filters = {}
        if point.order is not None:
            for name in self.layers if point.layer is None else [point.layer]:
                ranked = self.ranked[point.order, point.seed, name]
                filters[name] = ranked[: num_removed(len(ranked), point.fraction)]
        with removed(self.layers, filters):
            return evaluate(self.runner)
