"""Trains in the processes of torchrun, one arm after another, and compares the processes.

Prints a line for each arm: its name, and what differs or "equal"; with how many filters moved.
"""

import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from small import SmallModel, small_runner
from torch import distributed, nn

from mmwau.launch import leave_processes
from mmwau.wau import HOLDS, SAMPLERS

SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.01)
ZERO = {**SGD, 'type': 'ZeroRedundancyOptimizer', 'optimizer_type': 'SGD'}
WRAPPER = dict(type='MMDistributedDataParallel', device_ids=None)


class ModelWithUnused(SmallModel):
    def __init__(self):
        super().__init__()
        self.neck.unused = nn.Conv2d(2, 4, 1)


class CountMoved(Hook):
    """How many filters of the neck move in each iteration."""

    def __init__(self):
        self.moved = []

    def before_train_iter(self, runner, *args, **kwargs):
        self.before = runner.model.module.neck.weight.detach().clone()

    def after_train_iter(self, runner, *args, **kwargs):
        changed = runner.model.module.neck.weight.ne(self.before)
        self.moved.append(int(changed.flatten(1).any(dim=1).sum()))


def arms():
    for sampler in SAMPLERS:
        for hold in HOLDS:
            yield f'{sampler} {hold}', dict(sampler=sampler, hold=hold), {}
    yield 'accumulation', dict(accumulative_counts=2), {}
    yield 'seed None', {}, dict(randomness=dict(seed=None))
    yield 'unused', {}, dict(model=ModelWithUnused, find_unused_parameters=True)
    for hold in HOLDS:
        yield f'zero {hold}', dict(hold=hold, optimizer=ZERO), {}


def train(work_dir, options, model=None, find_unused_parameters=False, randomness=None):
    counter = CountMoved()
    runner = small_runner(
        work_dir,
        {'type': 'WAUOptimWrapper', 'optimizer': SGD, **options},
        [dict(type='WAUHook'), counter],
        model=model() if model else None,
        # MMEngine collects ZeRO's state from all processes when one saves, which waits for ever.
        checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False),
        launcher='pytorch',
        randomness=randomness or dict(seed=3),
        cfg=dict(
            model_wrapper_cfg={**WRAPPER, 'find_unused_parameters': find_unused_parameters}
        ),
    )  # fmt: skip
    runner.train()
    return runner, counter.moved


def differences(runner):
    """Names of what is not bit-equal to the first process's."""
    tensors = dict(runner.model.module.named_parameters())
    optimizer = runner.optim_wrapper.optimizer
    if not hasattr(optimizer, 'optim'):  # under ZeRO each process has its share of the state
        for index, state in optimizer.state_dict()['state'].items():
            tensors.update({f'{index} {key}': value for key, value in state.items()})
    tensors['seed'] = torch.tensor([runner.optim_wrapper.wau.seed])
    names = []
    for name, tensor in tensors.items():
        first = tensor.detach().clone()
        distributed.broadcast(first, 0)
        if not torch.equal(first, tensor):
            names.append(name)
    return names


def main():
    distributed.init_process_group('gloo')
    ends = {}
    for name, options, others in arms():
        runner, moved = train(Path(sys.argv[1]) / name.replace(' ', '-'), options, **others)
        ends[name] = [param.detach() for param in runner.model.module.parameters()]
        different = [None] * distributed.get_world_size()
        distributed.all_gather_object(different, differences(runner))
        if distributed.get_rank() == 0:
            print('ARM', name, different if any(different) else 'equal', moved, sep=' | ')
    if distributed.get_rank() == 0:
        for hold in HOLDS:
            pairs = zip(ends[f'uniform {hold}'], ends[f'zero {hold}'], strict=True)
            same = all(torch.equal(one, two) for one, two in pairs)
            print('ARM', f'zero {hold} beside one optimizer', 'equal' if same else 'different',
                  sep=' | ')  # fmt: skip
    leave_processes()


if __name__ == '__main__':
    main()
