"""A model, data and a Runner that are small enough to train in a second."""

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset


class SmallModel(BaseModel):
    """A backbone with a frozen stage, a neck, a head; trained by mean squared error."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3).requires_grad_(False),
            nn.Conv2d(4, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.neck = nn.Conv2d(8, 6, 1)
        self.head = nn.Conv2d(6, 1, 1)

    def forward(self, inputs, target, mode='tensor'):
        output = self.head(self.neck(self.backbone(inputs))).mean(dim=(1, 2, 3))
        return {'loss': (output - target).square().mean()} if mode == 'loss' else output


class SmallData(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        inputs = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index))
        return {'inputs': inputs, 'target': inputs.mean() * 10}


def small_runner(
    work_dir,
    optim_wrapper,
    hooks=(),
    max_epochs=2,
    model=None,
    sampler=None,
    checkpoint=None,
    **options,
):
    """A Runner over 3 batches of 4 images an epoch; options become arguments of Runner."""
    torch.manual_seed(0)
    optim_wrapper = {
        'optimizer': dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.01),
        **optim_wrapper,
    }
    options.setdefault('train_cfg', dict(by_epoch=True, max_epochs=max_epochs))
    return Runner(
        model=model or SmallModel(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=SmallData(),
            batch_size=4,
            sampler=sampler or dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=optim_wrapper,
        custom_hooks=list(hooks),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=checkpoint or dict(type='CheckpointHook', interval=1),
        ),
        randomness=options.pop('randomness', dict(seed=3)),
        experiment_name=f'{work_dir.name}-{id(optim_wrapper)}',
        **options,
    )
