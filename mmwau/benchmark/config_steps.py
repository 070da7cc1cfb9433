"""Training steps of a config with real data, to compare it with WAU and without."""

import copy
import time
from itertools import islice

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmwau.scripts.presets import use_wau

from .arms import PROCESSOR, WALL, now

# As many different batches are used by turns.
BATCHES = 8


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
    """The first batches of the training data, at most :data:`BATCHES`."""
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    return list(islice(loader, BATCHES))


class ConfigTrainer:
    """Trains the model of a config, a step at a time, with batches that are used by turns.

    A step is what MMEngine's training loop calls, ``model.train_step``; hooks are left out.

    Args:
        cfg: The config.
        batches: The batches of :func:`load_batches`.
        name: Name of the arm; no two may have the same.
    """

    def __init__(self, cfg: Config, batches: list, name: str):
        cfg = copy.deepcopy(cfg)
        cfg.update(experiment_name=name, resume=False)
        cfg.randomness = dict(seed=0)
        runner = Runner.from_cfg(cfg)
        runner.load_or_resume()
        runner.model.init_weights()
        self.model = runner.model.train()
        self.wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
        self.wrapper.initialize_count_status(self.model, 0, -1)
        self.device = next(self.model.parameters()).device
        self.batches, self.steps = batches, 0

    def step(self) -> dict[str, float]:
        """Make a training step; returns its seconds, of the wall's clock and of the processor."""
        batch = copy.deepcopy(self.batches[self.steps % len(self.batches)])
        self.steps += 1
        wall, processor = now(self.device), time.process_time()
        self.model.train_step(batch, self.wrapper)
        return {WALL: now(self.device) - wall, PROCESSOR: time.process_time() - processor}
