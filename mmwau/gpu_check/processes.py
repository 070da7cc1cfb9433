"""Two processes, each with its GPU, that send each other gradients."""

import tempfile
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from mmwau.skipping import HeldGradSkipper
from mmwau.targets import AXES, find_layers
from mmwau.traffic import send_active_only
from mmwau.wau import WAU

from .bits import HeldBits, small_network
from .part import Finding, NotPossibleError, Place

UPDATES = 4
TIMEOUT = timedelta(seconds=100)


def train_in_two(place: Place) -> Finding:
    """Train in two processes, with batch norm over both and nccl on GPUs.

    Raises:
        NotPossibleError: If there are fewer than two GPUs.
        AssertionError: If the processes do not end with the same bits, or sending active slices
            alone changes any.
    """
    if place.is_gpu and torch.cuda.device_count() < 2:
        raise NotPossibleError('it takes two GPUs, and there is one')
    if not distributed.is_available():
        raise NotPossibleError('this torch has no torch.distributed')
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_train, (folder, place.is_gpu), nprocs=2)
    way = 'nccl, SyncBatchNorm' if place.is_gpu else 'gloo on the CPU, without SyncBatchNorm'
    told = (
        f'two processes ({way}) end with the same bits, whether they send all gradients or those '
        f'of active slices alone ({", ".join(AXES)})'
    )
    return Finding(told, {})


def _train(rank: int, folder: str, on_gpus: bool) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    device = torch.device('cuda', rank) if on_gpus else torch.device('cpu')
    if on_gpus:
        torch.cuda.set_device(device)
    store = f'file://{Path(folder).resolve()}/store'
    distributed.init_process_group(
        'nccl' if on_gpus else 'gloo', init_method=store, rank=rank, world_size=2, timeout=TIMEOUT
    )
    for axis in AXES:
        all_sent, active_sent = (_train_arm(device, axis, sends) for sends in (False, True))
        if not torch.equal(all_sent, active_sent):
            raise AssertionError(f'sending active slices alone changes bits (axis={axis!r})')
    distributed.barrier()
    distributed.destroy_process_group()


def _train_arm(device: torch.device, axis: str, sends_active_only: bool) -> Tensor:
    """Train; return all weights in one tensor, which are the same in both processes."""
    rank = distributed.get_rank()
    model: nn.Module = small_network(device)
    if device.type == 'cuda':
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    wrapped = DistributedDataParallel(model, [rank] if device.type == 'cuda' else None)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    layers, wau = find_layers(model, axis=axis), WAU(hold='state')
    skipper, bits = HeldGradSkipper(model, layers), HeldBits(layers)
    traffic = send_active_only(wrapped) if sends_active_only else None
    for update in range(UPDATES):
        drawn = torch.Generator().manual_seed(2 * update + rank)
        x = torch.randn(4, 3, 16, 16, generator=drawn).to(device)
        active = wau.select(layers, update)
        bits.start()
        with ExitStack() as stack:
            stack.enter_context(skipper.skipping(active))
            if traffic is not None:
                stack.enter_context(traffic.sending(layers, active))
            wrapped(x).square().mean().backward()
        with wau.holding(optimizer, layers, active, skipper.grads):
            optimizer.step()
        optimizer.zero_grad()
        bits.check(active)
    weights = torch.cat([param.detach().flatten() for param in model.parameters()])
    both = [torch.empty_like(weights) for _ in range(2)]
    distributed.all_gather(both, weights)
    if not torch.equal(*both):
        raise AssertionError(f'the processes end with different bits (axis={axis!r})')
    return weights
