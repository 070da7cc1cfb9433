"""A classifier of four channels that trains, its data and its config, for tests of pruning."""

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

CONFIG = """
model = dict(type='TinyClassifier')
train_dataloader = dict(
    dataset=dict(type='TinyChannels', noise=0.1), batch_size=8, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='default_collate'))
train_cfg = dict(by_epoch=True, max_epochs=100)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.5))
test_dataloader = dict(
    dataset=dict(type='TinyChannels', noise=0.0), batch_size=3, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'))
test_evaluator = dict(type='TinyAccuracy')
test_cfg = dict()
"""


@MODELS.register_module()
class TinyClassifier(BaseModel):
    """Says which channel of its input is the largest one."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.backbone = nn.Sequential(
            nn.Conv2d(4, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, inputs, label, mode='tensor'):
        scores = self.head(self.backbone(inputs).mean(dim=(2, 3)))
        if mode == 'loss':
            return dict(loss=functional.cross_entropy(scores, label))
        return [dict(right=right) for right in (scores.argmax(dim=1) == label).tolist()]


@DATASETS.register_module()
class TinyChannels(Dataset):
    """Images of which one channel is about 1 and the others are about 0, as often each."""

    def __init__(self, noise):
        self.noise = noise

    def __len__(self):
        return 16

    def __getitem__(self, index):
        inputs = self.noise * torch.randn(4, 2, 2)
        inputs[index % 4] += 1
        return {'inputs': inputs, 'label': index % 4}


@METRICS.register_module()
class TinyAccuracy(BaseMetric):
    default_prefix = 'accuracy'

    def process(self, data_batch, data_samples):
        self.results += [sample['right'] for sample in data_samples]

    def compute_metrics(self, results):
        return {'top1': sum(results) / len(results)}
