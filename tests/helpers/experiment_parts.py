"""What the config of the experiment tests names: a small model, data and a metric, registered."""

import os
import time
from pathlib import Path

from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from small import SmallData, SmallModel

MODELS.register_module(module=SmallModel)
DATASETS.register_module(module=SmallData)


@METRICS.register_module()
class MeanOutput(BaseMetric):
    """Mean of the model's outputs."""

    def process(self, data_batch, data_samples):
        self.results += [sample.item() for sample in data_samples]

    def compute_metrics(self, results):
        return {'mean': sum(results) / len(results)}


@HOOKS.register_module()
class WaitFor(Hook):
    """Waits in the second epoch until a file is there, so that a test can act meanwhile."""

    def __init__(self, path):
        self.path = path

    def before_train_epoch(self, runner):
        end = time.monotonic() + 120
        while runner.epoch == 1 and not Path(self.path).exists():
            if time.monotonic() > end:
                raise TimeoutError(f'waited two minutes for {self.path}')
            time.sleep(0.1)


@HOOKS.register_module()
class KeepGPUs(Hook):
    """Keeps in a file which GPUs each process may see."""

    def before_train(self, runner):
        path = Path(runner.work_dir) / f'gpus_{get_rank()}'
        path.write_text(os.environ['CUDA_VISIBLE_DEVICES'])
