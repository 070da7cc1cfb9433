"""Training steps of a config with real data, to compare it with WAU and without."""

import copy
import time
from itertools import islice, product

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import BaseLoop, Runner, set_random_seed

from mmwau.datasets.coco_file import read_with_marks
from mmwau.scripts.checkpoint import read_safely
from mmwau.scripts.presets import use_wau

from .arms import PROCESSOR, WALL, now

# As many different batches are used by turns.
BATCHES = 8
# MMEngine's own, but the one that says which seed the run has.
HOOKS_LEFT_OUT = ('timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')


def with_wau(cfg: Config, preset: str, update_ratio: float) -> Config:
    """A copy of a baseline's config with WAU and this ratio.

    Raises:
        ValueError: If the config has WAU already, or a wrapper that WAU can't replace.
    """
    cfg = copy.deepcopy(cfg)
    use_wau(cfg, preset)
    cfg.optim_wrapper.update_ratio = update_ratio
    return cfg


def load_batches(cfg: Config) -> list:
    """The first batches of the training data, at most :data:`BATCHES`.

    Raises:
        ValueError: If there is not one.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    read_with_marks()
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batches = list(islice(loader, BATCHES))
    if not batches:
        raise ValueError(
            f'train_dataloader has no batch: its data set has {len(loader.dataset)} samples, and '
            f'batch_size is {cfg.train_dataloader.batch_size}. Give a smaller one, or drop_last='
            'False, with --cfg-options'
        )
    return batches


class _NoIteration(BaseLoop):
    """A training loop without an iteration: all that Runner does before the first one is done.

    Its numbers are told to the models, some of which ask for them.
    """

    iter = epoch = 0
    # A training that does not come to its end.
    max_iters = max_epochs = 10**9

    def run(self) -> None:
        """End at once."""
        for name in ('iter', 'epoch', 'max_iters', 'max_epochs'):
            self.runner.message_hub.update_info(name, getattr(self, name))


class ConfigTrainer:
    """Trains the model of a config, a step at a time, with batches that are used by turns.

    A step makes one update: it calls ``model.train_step``, as MMEngine's training loop does, as
    often as gradients are accumulated. What comes before the first is done by MMEngine, as in any
    training. Hooks, schedules and validation are left out.

    Args:
        cfg: The config.
        batches: The batches of :func:`load_batches`.
        name: Name of the arm; no two may have the same.
    """

    def __init__(self, cfg: Config, batches: list, name: str):
        cfg = copy.deepcopy(cfg)
        cfg.update(experiment_name=name, resume=False, launcher='none')
        # The visualizer may have a backend that keeps runs on another machine.
        cfg.update(custom_hooks=[], visualizer=dict(type='Visualizer', vis_backends=None))
        cfg.default_hooks = dict.fromkeys(HOOKS_LEFT_OUT)
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': 0}
        cfg.param_scheduler = cfg.auto_scale_lr = None
        for part in product(('val', 'test'), ('dataloader', 'cfg', 'evaluator')):
            cfg['_'.join(part)] = None
        read_safely()
        runner = Runner.from_cfg(cfg)
        runner._train_loop = _NoIteration(runner, batches)
        runner.train()
        self.model, self.wrapper = runner.model.train(), runner.optim_wrapper
        self.device = next(self.model.parameters()).device
        self.accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
        self.name, self.batches, self.steps = name, batches, 0

    def step(self) -> dict[str, float]:
        """Make a training step; returns its seconds, wall-clock and CPU time.

        Raises:
            ValueError: If a loss is not finite: what a broken model takes says nothing.
        """
        first = self.steps * self.accumulated
        batches = [
            copy.deepcopy(self.batches[number % len(self.batches)])
            for number in range(first, first + self.accumulated)
        ]
        # Models look for the iteration in the messages of the last runner that was built.
        messages = MessageHub.get_current_instance()
        # Some draw the size of their input, which has to be the same in all arms.
        set_random_seed(self.steps)
        self.steps += 1
        wall, processor = now(self.device), time.process_time()
        for number, batch in enumerate(batches, first):
            messages.update_info('iter', number)
            losses = self.model.train_step(batch, self.wrapper)
        times = {WALL: now(self.device) - wall, PROCESSOR: time.process_time() - processor}
        for loss, value in losses.items():
            if 'loss' in loss and not torch.as_tensor(value).isfinite().all():
                raise ValueError(
                    f'{loss} is {value} in step {self.steps} of {self.name}. Steps have no warm-up '
                    'of the learning rate here: give a smaller one, with --cfg-options '
                    'optim_wrapper.optimizer.lr=...'
                )
        return times
