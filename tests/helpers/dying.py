"""A model, data and a hook by which one process of several dies; named by configs."""

import os
import signal
import time

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS
from small import SmallData, SmallModel

MODELS.register_module(module=SmallModel)
DATASETS.register_module(module=SmallData)


@HOOKS.register_module()
class Die(Hook):
    def __init__(self, rank, how):
        self.rank, self.how = rank, how

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 1 and get_rank() == self.rank:
            if self.how == 'killed':
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == 'raised':
                raise ValueError('the reason')
            time.sleep(600)
