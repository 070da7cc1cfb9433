"""A training of a tiny network that is measured, and that goes on with the same bits after a kill.

Dropout and random images let it end otherwise where any of the random numbers does.
"""

import gc
import json
import math
import random
import time
from pathlib import Path

import mmwau.core.openmp

import numpy as np
import psutil
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

import mmwau  # noqa: F401  (registers what the config names)
from mmwau.scripts.checkpoint import find_last, remove_unfinished
from mmwau.scripts.launch import build_runner

EPOCH = 100  # updates; each ends with a checkpoint
BATCH = 4
POINTS = 50  # of the picture
MIB = 2**20


@MODELS.register_module()
class MeanNetwork(BaseModel):
    """Learns the means of images."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 8, 3)
        )
        self.head = nn.Linear(8, 1)

    def forward(self, inputs, target, mode='tensor'):
        output = self.head(self.backbone(inputs).mean(dim=(2, 3)))[:, 0]
        return dict(loss=(output - target).square().mean()) if mode == 'loss' else output


@DATASETS.register_module()
class RandomImages(Dataset):
    """Images that are drawn anew each time, by all three kinds of random numbers."""

    def __len__(self):
        return EPOCH * BATCH

    def __getitem__(self, index):
        image = torch.randn(3, 8, 8) + random.random() + np.random.rand()
        return dict(inputs=image, target=image.mean())


class RandomStates(Hook):
    """Keeps in checkpoints what all random numbers go on from, which MMEngine does not."""

    _loaded: tuple | None = None

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['random_states'] = (
            torch.get_rng_state(),
            np.random.get_state(),
            random.getstate(),
        )

    def after_load_checkpoint(self, runner, checkpoint):
        self._loaded = checkpoint['random_states']

    def before_train_epoch(self, runner):
        if self._loaded is not None:
            of_torch, of_numpy, of_python = self._loaded
            torch.set_rng_state(of_torch)
            np.random.set_state(of_numpy)
            random.setstate(of_python)
            self._loaded = None


class Watch(Hook):
    """Tells how far training is, and measures it at some points.

    What is measured is the processor time of an update and that of what is between two epochs, the
    memory of the process, and the objects that came since the start and that Python's garbage
    collector leaves.
    """

    priority = 'LOWEST'

    def __init__(self, updates, progress):
        self.every, self.progress = math.ceil(updates / POINTS), progress
        self.points, self.process = [], psutil.Process()
        self.times, self.saving, self.ended = [], 0.0, None

    def before_train(self, runner):
        gc.freeze()  # what is there already is looked at no more

    def before_train_epoch(self, runner):
        now = time.process_time()
        if self.ended is not None:
            self.saving = now - self.ended
        self.ended = now

    def after_train_iter(self, runner, *args, **kwargs):
        self.times.append(time.process_time() - self.ended)
        done = self.progress.value = runner.iter + 1
        if done % self.every == 0:
            gc.collect()
            self.points.append(
                dict(
                    update=done,
                    milliseconds=1000 * float(np.median(self.times)),
                    saving=1000 * self.saving,
                    memory=self.process.memory_info().rss / MIB,
                    objects=len(gc.get_objects()),
                )
            )
            self.times.clear()
        self.ended = time.process_time()

    def after_train(self, runner):
        Path(runner.work_dir, 'points.json').write_text(json.dumps(self.points))


def train(work_dir: Path, updates: int, has_wau: bool, progress) -> None:
    """Train, or go on with a training that was killed."""
    torch.set_num_threads(1)
    optimizer = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.001)
    hook = dict(overlap_interval=EPOCH, movement=True)
    cfg = Config(
        dict(
            model=dict(type='MeanNetwork'),
            work_dir=str(work_dir),
            train_dataloader=dict(
                dataset=dict(type='RandomImages'),
                batch_size=BATCH,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=updates // EPOCH),
            optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer),
            param_scheduler=dict(type='CosineAnnealingLR', T_max=updates // EPOCH, by_epoch=True),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=EPOCH),
                checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3),
            ),
            custom_hooks=[dict(type='OverlapHook', **hook)],
            randomness=dict(seed=3),
            env_cfg=dict(mp_cfg=dict(mp_start_method='forkserver')),
            log_level='ERROR',
            experiment_name=work_dir.name,
        )
    )
    if has_wau:
        cfg.optim_wrapper.type = 'WAUOptimWrapper'
        cfg.custom_hooks = [dict(type='WAUHook', **hook)]
    last = find_last(cfg)
    cfg.resume, cfg.load_from = last is not None, last
    runner = build_runner(cfg)
    runner.register_hook(RandomStates())
    runner.register_hook(Watch(updates, progress))
    remove_unfinished(work_dir)
    runner.train()
