"""Train networks on that have lost filters for good, and measure how large they are."""

import gc
import io
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmwau.engine.plan import Plan
from mmwau.runs.metrics import choose_metric
from mmwau.scripts.launch import build_runner
from mmwau.scripts.preflight import check_train_config

from .evaluation import Measurements, evaluate, load_weights, quiet, run_first_images
from .prune_results import Point
from .pruning import Removable
from .shrinking import shrink
from .training_loss import training_losses

# Of these default hooks a training depends on; the others log, save and draw.
TRAINING_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'param_scheduler')
TRAINING_PARTS = ('train_dataloader', 'train_cfg', 'optim_wrapper')
PARAMETERS, BYTES, MULTIPLICATIONS = SIZES = (
    'size/parameters',
    'size/bytes',
    'size/multiplications',
)
# Before the names of the whole network's metrics as its checkpoint has them, before it trains on.
BEFORE = 'before/'
# Says of a network that it diverged, which may leave it without any metric.
DIVERGED = 'size/diverged'
NO_METRICS = ('size/', BEFORE)


class TrainingTick(Hook):
    """Reports after each iteration what fraction of the training is done."""

    def __init__(self, tick: Callable[[float], None]):
        self.tick = tick

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Report it."""
        self.tick(1 / runner.max_iters)


def prepare_training(cfg: Config, epochs: int) -> Config:
    """A config that trains for a number of epochs, as the given one does, and leaves no files.

    Args:
        cfg: The config. Its schedule of the learning rate stays as it is.
        epochs: Number of epochs.

    Raises:
        FileNotFoundError: If something of the training data does not exist.
        ValueError: If the config does not train, or not by epochs, or a setting is wrong.
        TypeError: If a setting is of the wrong type.
    """
    cfg = deepcopy(cfg)
    missing = [key for key in TRAINING_PARTS if cfg.get(key) is None]
    if missing:
        raise ValueError(f'The config has no {", ".join(missing)}, which --finetune-epochs needs')
    if Plan.of_config(cfg).counts_iterations:
        raise ValueError(
            '--finetune-epochs counts epochs, and the config counts only iterations. Set '
            'train_cfg to dict(by_epoch=True), and param_scheduler accordingly'
        )
    cfg.train_cfg.max_epochs = epochs
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {name: hooks[name] for name in TRAINING_HOOKS if name in hooks}
    cfg.default_hooks.update(logger=None, checkpoint=None)
    cfg.visualizer = cfg.load_from = None
    cfg.resume = False
    cfg.log_level = 'CRITICAL'
    # The same training each time.
    cfg.randomness = {**(cfg.get('randomness') or {})}
    if cfg.randomness.get('seed') is None:
        cfg.randomness.seed = 0
    check_train_config(cfg)
    return cfg


class Finetuning(Measurements):
    """Evaluates the model with filters removed for good, and trained on.

    Args:
        runner: See :class:`mmwau.analysis.evaluation.Measurements`.
        layers: See there.
        images: See there.
        cfg: What :func:`prepare_training` gives.
        metric: Name of the metric that was asked for.
    """

    def __init__(
        self,
        runner: Runner,
        layers: Mapping[str, Removable],
        images: Mapping[str, int],
        cfg: Config,
        metric: str | None = None,
    ):
        super().__init__(runner, layers, images)
        self.cfg, self.metric = cfg, metric

    def watch(self, tick: Callable[[float], None]) -> None:
        """Report again and again what fraction of a training has been done meanwhile."""
        self.tick = tick

    def load(self, path: str, orders: Sequence[str], seeds: Sequence[int]) -> None:
        """Load a checkpoint and find out the orders of its filters."""
        super().load(path, orders, seeds)
        self.checkpoint = path

    def measure(self, point: Point) -> dict[str, float]:
        """The metrics and sizes of a network that lost filters and was trained on.

        The whole one is trained on too, so that what training brings by itself is not taken for
        what filters are worth; its metrics before are there too. Those of a network that diverged
        as it was trained on are nan.

        Raises:
            ValueError: See :func:`mmwau.analysis.shrinking.shrink`; or if the training data are
                less than a batch, the whole network diverged, or there is no such metric.
        """
        others: dict[str, float] = {}
        if point.order is None:
            before = evaluate(self.runner)
            # Nobody wants to hear of it after a training. There may be no metric yet.
            if before and self.metric is not None and self.metric not in before:
                choose_metric(before, self.metric)
            others = {f'{BEFORE}{name}': value for name, value in before.items()}
        gc.collect()  # with the runner before, its data loaders' processes end
        with TemporaryDirectory(prefix='mmwau_finetune_') as folder, quiet():
            cfg = deepcopy(self.cfg)
            cfg.work_dir, cfg.experiment_name = folder, Path(folder).name
            runner = build_runner(cfg)
            if not len(runner.train_dataloader):
                raise ValueError(
                    'train_dataloader has no whole batch, so that nothing would be trained: set a '
                    'smaller batch_size, or drop_last=False'
                )
            load_weights(runner, self.checkpoint)
            if point.order is not None:
                ranked = {name: self.ranked[point.order, point.seed, name] for name in self.layers}
                shrink(runner.model, partial(compute_loss, runner), ranked, point.fraction)
            others |= measure_size(runner)
            # The runner would set weights as for a new training.
            runner.model.init_weights = lambda: None
            # Looking at a loss has moved the random numbers.
            set_random_seed(runner.seed)
            runner.register_hook(TrainingTick(self.tick))
            runner.train()
            metrics = evaluate(runner)
            if not all(tensor.isfinite().all() for tensor in runner.model.state_dict().values()):
                if point.order is None:
                    raise ValueError(
                        f'The whole network of {self.checkpoint} diverged as it was trained on: '
                        'set a lower learning rate, --cfg-options optim_wrapper.optimizer.lr=...'
                    )
                metrics = {**dict.fromkeys(metrics, math.nan), DIVERGED: True}
            return {**metrics, **others}


def find_shrinkable(
    runner: Runner, layers: Mapping[str, Removable]
) -> tuple[dict[str, Removable], dict[str, str]]:
    """Find out which layers can lose filters for good.

    Args:
        runner: Its model has the layers; nothing is removed from it.
        layers: By name, those that may lose filters.

    Returns:
        Those that can, and the reasons by name for the others.

    Raises:
        ValueError: See :func:`mmwau.analysis.shrinking.shrink`.
    """
    ranked = {name: range(layer.num_filters) for name, layer in layers.items()}
    with quiet():
        left_out = shrink(runner.model, partial(compute_loss, runner), ranked, 0.0)
    return {name: layers[name] for name in layers if name not in left_out}, left_out


def compute_loss(runner: Runner) -> Tensor:
    """The loss of the model on the first image of the training data."""
    return next(training_losses(runner, 1))


def measure_size(runner: Runner) -> dict[str, float]:
    """How large the network of a runner is.

    Returns:
        The number of parameters; of bytes in a file of its weights (torch's); and of
        multiplications for the first image of the test data, which torch counts in convolutions
        and matrix products, of whatever kind of layer.
    """
    file = io.BytesIO()
    torch.save(runner.model.state_dict(), file)
    with quiet(), FlopCounterMode(display=False) as counter:
        run_first_images(runner, 1)
    return {
        PARAMETERS: sum(param.numel() for param in runner.model.parameters()),
        BYTES: len(file.getvalue()),
        # torch counts an addition with each.
        MULTIPLICATIONS: counter.get_total_flops() // 2,
    }
