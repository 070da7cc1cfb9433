"""Trains with each method of mmwau.comparison in the processes of torchrun.

Prints a line for each arm: its name, how many tensors of each process are not the first one's,
and whether it ends as the arm before it; then whether dropout drops the same in both.
"""

import sys
from pathlib import Path

import torch
from small import small_runner
from torch import distributed

from mmwau.comparison import dropout
from mmwau.scripts.launch import leave_processes

SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.01)
ZERO = {**SGD, 'type': 'ZeroRedundancyOptimizer', 'optimizer_type': 'SGD'}
REPR = dict(type='RePrHook', full_epochs=1, sub_epochs=1, cycles=2)
DSD = dict(type='DSDHook', begin=1, end=3)
ARMS = {
    'repr': (SGD, REPR),
    'repr zero': (ZERO, REPR),
    'dsd': (SGD, DSD),
    'dsd zero': (ZERO, DSD),
    'so': (SGD, dict(type='OrthogonalityHook', kind='so')),
    'srip': (SGD, dict(type='OrthogonalityHook', kind='srip')),
    'dropout': (SGD, dict(type='DropoutHook', drop_prob=0.5, modules='neck')),
}


def train(work_dir, optimizer, hook):
    runner = small_runner(
        work_dir,
        dict(type='OptimWrapper', optimizer=optimizer),
        [hook],
        max_epochs=5,
        # MMEngine collects ZeRO's state from all processes when one saves, which waits for ever.
        checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False),
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
    )
    runner.train()
    return runner


def main():
    distributed.init_process_group('gloo')
    dropped, before = [], []
    for name, (optimizer, hook) in ARMS.items():
        if name == 'dropout':
            keep_dropped(dropped)
        runner = train(Path(sys.argv[1]) / name.replace(' ', '-'), optimizer, hook)
        tensors = [param.detach() for param in runner.model.parameters()]
        same = len(before) == len(tensors) and all(map(torch.equal, tensors, before))
        before = [tensor.clone() for tensor in tensors]
        if optimizer is SGD:  # under ZeRO each process has its share of the state
            states = runner.optim_wrapper.optimizer.state_dict()['state'].values()
            tensors += [state['momentum_buffer'] for state in states]
        different = [None] * distributed.get_world_size()
        distributed.all_gather_object(different, sum(map(differs, tensors)))
        if distributed.get_rank() == 0:
            print('ARM', name, different, same, sep=' | ', flush=True)
    every = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, dropped[0])
    if distributed.get_rank() == 0:
        print('DROPPED', every[0] == every[1], sep=' | ', flush=True)
    leave_processes()


def differs(tensor):
    """Whether a tensor is not bit-equal to the first process's."""
    first = tensor.clone()
    distributed.broadcast(first, 0)
    return not first.equal(tensor)


def keep_dropped(dropped):
    """Keep which elements are dropped from now on."""
    drop_out = dropout.drop_out

    def keep(*arguments):
        output = drop_out(*arguments)
        dropped.append((output == 0).tolist())
        return output

    dropout.drop_out = keep


if __name__ == '__main__':
    main()
