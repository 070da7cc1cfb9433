"""A hook that keeps what each process ends with; loaded through custom_imports."""

from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class KeepRank(Hook):
    def after_train(self, runner):
        state = {
            'model': runner.model.module.state_dict(),
            'optimizer': runner.optim_wrapper.optimizer.state_dict(),
            'world_size': runner.world_size,
            'seed': runner.optim_wrapper.wau.seed,
        }
        torch.save(state, Path(runner.work_dir) / f'rank{get_rank()}.pth')
