"""Trains in the processes of torchrun, one arm after another, and compares the processes.

Prints a line for each arm: its name, and what differs or "equal"; with how many filters moved.
"""

import copy
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from small import SmallModel, small_runner
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_wrapper

from mmwau import WAU, find_layers
from mmwau.core import narrow_convolution
from mmwau.scripts.launch import leave_processes
from mmwau.traffic import ActiveTraffic, all_reduce_active, send_active_only
from mmwau.wau import HOLDS, SAMPLERS

SGD = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.01)
ZERO = {**SGD, 'type': 'ZeroRedundancyOptimizer', 'optimizer_type': 'SGD'}
WRAPPER = dict(type='MMDistributedDataParallel', device_ids=None)


class ModelWithUnused(SmallModel):
    def __init__(self):
        super().__init__()
        self.neck.unused = nn.Conv2d(2, 4, 1)


class ScaledConvolution(nn.Conv2d):
    def __init__(self, *args):
        super().__init__(*args)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(x) * self.scale


class ModelWithNumber(SmallModel):
    """A parameter of the neck is a single number, and its output is changed in place."""

    def __init__(self):
        super().__init__()
        self.neck = ScaledConvolution(8, 6, 1)
        self.head = nn.Sequential(nn.ReLU(inplace=True), self.head)


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
    yield 'seed of each rank', {}, dict(randomness=dict(seed=3, diff_rank_seed=True))
    yield 'seed given by each rank', dict(seed=distributed.get_rank()), {}
    yield 'unused', {}, dict(model=ModelWithUnused, find_unused_parameters=True)
    for hold in HOLDS:
        yield f'zero {hold}', dict(hold=hold, optimizer=ZERO), {}
    for name, options, others in sending_arms():
        for sends in (False, True):
            hook = dict(type='WAUHook', send_active_only=sends)
            yield f'{name} {"active" if sends else "all"}', options, dict(others, hook=hook)


def sending_arms():
    """Each trains twice: once all gradients are sent, once only those of active slices."""
    state = dict(hold='state')
    yield 'send state', state, {}
    yield 'send in', dict(state, axis='in'), {}
    yield 'send grad', dict(hold='grad', skip_held_grads=False), {}
    yield 'send dense', dict(state, skip_held_grads=False), {}
    yield 'send accumulation', dict(state, accumulative_counts=2), {}
    yield 'send clipped', dict(state, clip_grad=dict(max_norm=0.1)), {}
    yield 'send unused', state, dict(model=ModelWithUnused, find_unused_parameters=True)
    yield 'send buckets', state, dict(bucket_cap_mb=1e-4)
    yield 'send views', state, dict(gradient_as_bucket_view=True)
    yield 'send static', state, dict(static_graph=True)
    yield 'send last', state, dict(model=channels_last)
    layer = dict(state, axis='layer')
    yield 'send layer', layer, {}
    yield 'send layer dense', dict(layer, skip_held_grads=False), {}
    yield 'send layer grad', dict(layer, hold='grad'), {}
    yield 'send layer accumulation', dict(layer, accumulative_counts=2), {}
    yield 'send layer unused', layer, dict(model=ModelWithUnused, find_unused_parameters=True)
    yield 'send layer buckets', layer, dict(bucket_cap_mb=1e-4)
    yield 'send layer views', layer, dict(gradient_as_bucket_view=True)
    yield 'send layer static', layer, dict(static_graph=True)
    yield 'send layer number', layer, dict(model=ModelWithNumber)


def channels_last():
    return SmallModel().to(memory_format=torch.channels_last)


def train(work_dir, options, model=None, randomness=None, hook=None, **ddp):
    counter = CountMoved()
    runner = small_runner(
        work_dir,
        {'type': 'WAUOptimWrapper', 'optimizer': SGD, **options},
        [hook or dict(type='WAUHook'), counter],
        model=model() if model else None,
        # MMEngine collects ZeRO's state from all processes when one saves, which waits for ever.
        checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False),
        launcher='pytorch',
        randomness=randomness or dict(seed=3),
        cfg=dict(model_wrapper_cfg={**WRAPPER, **ddp}),
    )
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


def print_hooks():
    """Gradients that the hook gives, on its own and inside of torch's compression to 16 bits."""
    rank = distributed.get_rank()
    for name, hook in (
        ('plain', all_reduce_active),
        ('fp16', fp16_compress_wrapper(all_reduce_active)),
    ):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, bias=False))
        other = copy.deepcopy(model)
        layers = find_layers(model).values()
        active = WAU().select(layers, 0)
        wrapped, dense = map(nn.parallel.DistributedDataParallel, (model, other))
        traffic = ActiveTraffic()
        wrapped.register_comm_hook(traffic, hook)
        traffic.start(layers, active)
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
        wrapped(x).square().mean().backward()
        dense(x).square().mean().backward()
        masks = [active[0], active[0], active[1]]
        ends = list(zip(model.parameters(), other.parameters(), masks, strict=True))
        if name == 'plain':
            good = all(torch.equal(one.grad[mask], two.grad[mask]) for one, two, mask in ends)
        else:
            good = all(
                torch.allclose(one.grad[mask], two.grad[mask], 1e-2, 1e-3)
                and not torch.equal(one.grad[mask], two.grad[mask])
                for one, two, mask in ends
            )
        zero = not any(one.grad[~mask].any() for one, _, mask in ends)
        if rank == 0:
            print('HOOK', name, good, zero, traffic.sent_bytes, sep=' | ')
        try:
            send_active_only(wrapped)
        except ValueError as error:
            print('TWICE', error, sep=' | ') if rank == 0 else None


def main():
    distributed.init_process_group('gloo')
    # The layers are small: skip in them all the same.
    narrow_convolution.MIN_SAVED, narrow_convolution.BLOCK = 0, 1
    ends, sent = {}, {}
    for name, options, others in arms():
        runner, moved = train(Path(sys.argv[1]) / name.replace(' ', '-'), options, **others)
        ends[name] = [param.detach() for param in runner.model.module.parameters()]
        if 'train/sent_mb' in runner.message_hub.log_scalars:
            # In every iteration since the first update, also where no gradients are sent.
            since = options.get('accumulative_counts', 1) - 1
            sent[name] = min(runner.message_hub.get_scalar('train/sent_mb').data[0][since:])
        different = [None] * distributed.get_world_size()
        distributed.all_gather_object(different, differences(runner))
        if distributed.get_rank() == 0:
            print('ARM', name, different if any(different) else 'equal', moved, sep=' | ')
    if distributed.get_rank() == 0:
        for hold in HOLDS:
            pairs = zip(ends[f'uniform {hold}'], ends[f'zero {hold}'], strict=True)
            same = all(torch.equal(one, two) for one, two in pairs)
            print(
                'ARM',
                f'zero {hold} beside one optimizer',
                'equal' if same else 'different',
                sep=' | ',
            )
        for name, *_ in sending_arms():
            pairs = zip(ends[f'{name} all'], ends[f'{name} active'], strict=True)
            same = all(torch.equal(one, two) for one, two in pairs)
            print('SENT', name, 'equal' if same else 'different', sent[f'{name} active'], sep=' | ')
        pairs = zip(ends['send state all'], ends['send dense all'], strict=True)
        close = all(torch.allclose(one, two, 1e-4, 1e-6) for one, two in pairs)
        print('SKIP', 'state', close, sep=' | ')
        pairs = zip(ends['send layer all'], ends['send layer dense all'], strict=True)
        print('SKIP', 'layer', all(torch.equal(*pair) for pair in pairs), sep=' | ')
    print_hooks()
    leave_processes()


if __name__ == '__main__':
    main()
