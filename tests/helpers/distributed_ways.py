"""Ways to train in two processes that WAU may meet; started by torchrun.

Takes a folder and the names of ways, functions of this file. Prints a line for each: its name, and
as JSON what came of it in each process.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import torch
from mmengine.model.wrappers import MMFullyShardedDataParallel
from small import SmallModel, small_runner
from torch import Tensor, distributed, nn
from torch.distributed import fsdp
from torch.distributed._composable import fsdp as composable  # where torch 2.5 has it
from torch.distributed.algorithms.join import Join
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.optim import PostLocalSGDOptimizer, ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer
from two_processes import WRAPPER

from mmwau import WAU, HeldGradSkipper, WAUOptimWrapper, attach, find_layers
from mmwau.comparison.weights import find_weights
from mmwau.core import narrow_convolution
from mmwau.scripts.launch import leave_processes
from mmwau.traffic import send_active_only

CPU = torch.device('cpu')
EACH_PART = dict(type='MMSeparateDistributedDataParallel', device_ids=None)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False), nn.ReLU())


def sgd(model: nn.Module) -> SGD:
    return SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def batch(update: int) -> Tensor:
    place = 100 * distributed.get_rank() + update
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(place))


def train(model: nn.Module, *args, **options) -> str:
    """Train, and say what is wrong at the end, or "equal" where the processes end alike."""
    return make_updates(model, *args, **options) or differences(model)


def make_updates(
    model: nn.Module,
    wrapped: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    updates: int = 3,
    sends: bool = False,
    skips: bool = False,
    seed: int = 0,
    after=lambda: None,
) -> str:
    """Train, and say what is wrong with what moved, if anything is."""
    wrapped, optimizer = wrapped or model, optimizer or sgd(model)
    wau, layers = WAU(hold='state', seed=seed), find_layers(model)
    traffic = send_active_only(wrapped) if sends else None
    skipper = HeldGradSkipper(model, layers, full_grads=False) if skips else None
    for update in range(updates):
        active = wau.select(layers, update)
        before = [layer.tensors[0][0].detach().clone() for layer in layers.values()]
        if traffic:
            traffic.start(layers, active)
        if skipper:
            skipper.start(active)
        wrapped(batch(update)).abs().square().mean().backward()
        if skipper:
            skipper.stop()
        with wau.holding(optimizer, layers, active, skipper.grads if skipper else None):
            optimizer.step()
        for layer, mask, weight in zip(layers.values(), active, before, strict=True):
            moved = (layer.tensors[0][0] != weight).flatten(1).any(dim=1)
            if not torch.equal(moved, mask):
                return f'{layer.name} has moved where it should not, or has not'
        after()
        optimizer.zero_grad()
    return ''


def differences(model: nn.Module) -> str:
    names = []
    for name, param in model.named_parameters():
        first = param.detach().clone()
        distributed.broadcast(first, 0)
        if not torch.equal(first, param):
            names.append(name)
    return f'differ: {names}' if names else 'equal'


def sends_alike(make) -> str:
    """Train while all is sent and while only active slices are; compare the ends."""
    ends = []
    for sends in (False, True):
        model = make()
        result = train(model, DistributedDataParallel(model), sends=sends)
        ends.append(list(model.parameters()))
    return result if all(map(torch.equal, *ends)) else 'trains otherwise'


def runner(work_dir: Path, model=None, sends=True, wrapper=WRAPPER, max_epochs=1, **options):
    return small_runner(
        work_dir,
        {'type': 'WAUOptimWrapper', 'hold': 'state', **options},
        [dict(type='WAUHook', send_active_only=sends)],
        model=model,
        max_epochs=max_epochs,
        checkpoint=dict(type='CheckpointHook', interval=-1, save_last=False),
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=wrapper),
    )


def start_wrapper(model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """What the Runner does just before training."""
    wrapper = WAUOptimWrapper(optimizer=optimizer or sgd(model), seed=0)
    wrapper.initialize_count_status(model, 0, 1)


def second_training(work_dir):
    ends, sent = [], []
    for at_once in (True, False):
        trained = runner(work_dir / str(at_once), max_epochs=2 if at_once else 1)
        trained.train()
        if not at_once:
            trained.train_loop._max_epochs = 2
            trained.train()
        assert trained.iter == 4
        ends.append([param.detach() for param in trained.model.parameters()])
        sent.append(trained.message_hub.get_scalar('train/sent_mb').data[0])
    same = all(map(torch.equal, *ends)) and set(sent[0]) == set(sent[1])
    return differences(trained.model) if same else 'trains otherwise'


def second_runner(work_dir):
    first = runner(work_dir / 'first')
    first.train()
    second = runner(work_dir / 'second', first.model, wrapper=None)
    second.train()
    assert second.model is first.model
    return differences(second.model)


def runner_in_join(work_dir):
    trained = runner(work_dir, sends=False)
    with Join([trained.model]):
        trained.train()


def loop_in_join(work_dir):
    model = network()
    wrapped = DistributedDataParallel(model)
    with Join([wrapped]):
        make_updates(model, wrapped, updates=3 - distributed.get_rank(), sends=True)


def join_that_ends_all_together(work_dir):
    model = network()
    wrapped = DistributedDataParallel(model)
    try:
        with Join([wrapped], throw_on_early_termination=True):
            make_updates(model, wrapped, updates=3 - distributed.get_rank(), sends=True)
    except RuntimeError as error:
        return f'{differences(model)}: {error}'


def selections_that_differ(work_dir):
    model = network()
    train(model, DistributedDataParallel(model), sends=True, seed=distributed.get_rank())


def complex_weights(work_dir):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(AsComplex(), nn.Conv2d(3, 4, 3, dtype=torch.complex64))

    try:
        DistributedDataParallel(make())
    except RuntimeError as error:
        return f'not possible here without WAU either: {error}'
    return sends_alike(make)


class AsComplex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.complex(x, x.flip(0))


def weights_with_gaps(work_dir):
    def make():
        model = network()
        model[2].weight = nn.Parameter(torch.randn(6, 16, 3, 3)[:, ::2])
        return model

    return sends_alike(make)


def post_local_sgd(work_dir):
    model = network()
    train(model, optimizer=PostLocalSGDOptimizer(sgd(model), PeriodicModelAverager(period=2)))


def wrapper_with_post_local_sgd(work_dir):
    model = SmallModel()
    start_wrapper(model, PostLocalSGDOptimizer(sgd(model), PeriodicModelAverager(period=2)))


def averager_after_the_update(work_dir):
    model, averager = network(), PeriodicModelAverager(period=2)
    return train(model, after=lambda: averager.average_parameters(model.parameters()))


def zero_that_steps_in_backward(work_dir):
    model = network()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), SGD, overlap_with_ddp=True, lr=0.1)
    train(model, optimizer=optimizer)


def optimizer_in_backward(work_dir):
    model = network()
    distributed.optim._apply_optimizer_in_backward(SGD, model.parameters(), dict(lr=0.1))
    train(model)


def optimizer_of_other_processes(work_dir):
    optimizer = distributed.optim.DistributedOptimizer
    WAU().check_optimizer(optimizer.__new__(optimizer))


def fully_shard(work_dir):
    model = network()
    composable.fully_shard(model, mesh=init_device_mesh('cpu', (2,)))
    train(model)


def wrapper_with_fully_shard(work_dir):
    model = SmallModel()
    composable.fully_shard(model, mesh=init_device_mesh('cpu', (2,)))
    start_wrapper(model)


def comparison_with_fully_shard(work_dir):
    model = network()
    composable.fully_shard(model, mesh=init_device_mesh('cpu', (2,)))
    find_weights(model)


def tensor_parallel_beside_the_convolutions(work_dir):
    torch.manual_seed(0)
    model = nn.Sequential(network(), nn.Flatten(), nn.Linear(96, 2))
    parallelize_module(model, init_device_mesh('cpu', (2,)), {'2': ColwiseParallel()})
    return make_updates(model) or 'trains'


def fsdp_wrapper(work_dir):
    train(fsdp.FullyShardedDataParallel(network(), use_orig_params=True, device_id=CPU))


def model_inside_of_fsdp(work_dir):
    model = network()
    train(model, fsdp.FullyShardedDataParallel(model, use_orig_params=True, device_id=CPU))


def wrapper_with_a_part_in_fsdp(work_dir):
    model = SmallModel()
    model.neck = fsdp.FullyShardedDataParallel(model.neck, device_id=CPU)
    start_wrapper(model)


def wrapper_with_fsdp(work_dir):
    # MMEngine's Runner itself gets here only on GPUs.
    model = MMFullyShardedDataParallel(SmallModel(), device_id=CPU)
    start_wrapper(model)


def runner_that_wraps_each_part(work_dir):
    trained = runner(work_dir, sends=False, wrapper=EACH_PART)
    trained.train()
    return differences(trained.model)


def runner_that_wraps_each_part_sends(work_dir):
    runner(work_dir, wrapper=EACH_PART).train()


def attached_before_the_processes_meet(place: Path) -> str:
    """Each process draws its own seed, as one that attaches before init_process_group."""
    model = network()
    optimizer = sgd(model)
    torch.manual_seed(distributed.get_rank())
    with patch('torch.distributed.is_initialized', return_value=False):
        handle = attach(optimizer, model, hold='state')
    assert handle.wau.seed == distributed.get_rank()
    wrapped = DistributedDataParallel(model)
    for update in range(3):
        wrapped(batch(update)).abs().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return differences(model)


def skipping_in_data_parallel(work_dir):
    model = network()
    return train(model, DistributedDataParallel(model), skips=True)


def skipping_in_parts_in_data_parallel(work_dir):
    model = nn.Sequential(DistributedDataParallel(network()), nn.Flatten())
    return train(model, skips=True)


def skipping_with_gradients_averaged_by_hand(work_dir):
    model = network()

    def average(optimizer, args, kwargs):
        for param in model.parameters():
            if param.grad is not None:
                distributed.all_reduce(param.grad)

    optimizer = sgd(model)
    optimizer.register_step_pre_hook(average)
    return train(model, optimizer=optimizer, skips=True)


def main():
    distributed.init_process_group('gloo', timeout=timedelta(seconds=60))
    # The layers are small: skip in them all the same.
    narrow_convolution.MIN_SAVED, narrow_convolution.BLOCK = 0, 1
    place, *ways = sys.argv[1:]
    for way in ways:
        try:
            result = globals()[way](Path(place) / way)
        except (TypeError, ValueError) as error:
            result = f'{type(error).__name__}: {error}'
        results = [None] * distributed.get_world_size()
        distributed.all_gather_object(results, result)
        if distributed.get_rank() == 0:
            print('WAY', way, json.dumps(results), sep=' | ', flush=True)
    leave_processes()


if __name__ == '__main__':
    main()
