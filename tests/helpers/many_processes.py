"""What four and eight processes end with, and processes one of which dies; to be started by torch.

Processes with the ranks 0 to 3 and 4 to 7 are two groups first, then all are one.
"""

import json
import os
import signal
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from mmwau import WAUOptimWrapper, attach
from mmwau.core import narrow_convolution

ROOT = Path(__file__).parents[2]
READINGS = ('paper', 'authors', 'layers', 'authors_layers')
# The readings, and what may leave out gradients, in so far as they are other arms.
SENDING = {
    'paper state': dict(hold='state'),
    'paper grad': dict(hold='grad'),
    'authors state': dict(hold='state'),
    'layers': {},
    'authors_layers': {},
}
UPDATES, BATCH = 4, 16


def settings(reading: str) -> dict:
    wau = dict(Config.fromfile(ROOT / f'configs/_base_/wau/{reading}.py').wau)
    wau.pop('type')
    return wau


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 6, 3, bias=False), nn.Tanh(), nn.Conv2d(6, 8, 1)
    ).double()


def train(group, wau: dict, sends: bool = False) -> tuple[Tensor, int]:
    """Train on a batch that a group shares, or alone on all of it.

    Returns:
        Weights and momentum in one tensor, and the most bytes of gradients that were sent.
    """
    model, wrapped, share, sent = network(), None, slice(None), [0]
    if group is not None:
        size, rank = distributed.get_world_size(group), distributed.get_rank(group)
        share = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
        wrapped = DistributedDataParallel(model, process_group=group)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    wrapper = WAUOptimWrapper(optimizer=optimizer, seed=0, targets='', **wau)
    wrapper.initialize_count_status(wrapped or model, 0, UPDATES)
    if sends:
        wrapper.send_active_only(wrapped)
    for update in range(UPDATES):
        drawn = torch.Generator().manual_seed(update)
        images = torch.randn(BATCH, 3, 8, 8, generator=drawn, dtype=torch.float64)
        with wrapper.optim_context(wrapped or model):
            loss = (wrapped or model)(images[share]).square().mean()
        wrapper.update_params(loss)
        sent.append(wrapper.traffic.sent_bytes if sends else 0)
    state = optimizer.state.values()
    tensors = [*model.parameters(), *(one['momentum_buffer'] for one in state)]
    return torch.cat([tensor.detach().flatten() for tensor in tensors]), max(sent)


def compare(group, wau: dict, sends: bool = False) -> tuple[bool, float, int]:
    """Whether a group ends with the same bits, how far from one process, and what was sent."""
    end, sent = train(group, wau, sends)
    ends = [torch.empty_like(end) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(ends, end, group=group)
    alone, _ = train(None, wau)
    return all(map(end.equal, ends)), float((end - alone).abs().max()), sent


def train_all(rank: int, folder: str) -> None:
    """Train in each arm; leave what came of it in the folder."""
    torch.set_num_threads(1)
    narrow_convolution.MIN_SAVED, narrow_convolution.BLOCK = 0, 1  # the layers are small
    _meet(rank, 8, folder)
    fours = [distributed.new_group(ranks) for ranks in (range(4), range(4, 8))]
    found = {}
    for size, group in ((4, fours[rank // 4]), (8, distributed.group.WORLD)):
        for name in READINGS:
            found[f'{size} {name}'] = compare(group, settings(name))
        for name, more in SENDING.items():
            wau = {**settings(name.split()[0]), **more}
            found[f'{size} {name} sends'] = compare(group, wau, sends=True)
    Path(folder, f'{rank}.json').write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def train_and_die(rank: int, folder: str, how: str) -> None:
    """Train in three processes, one of which dies in the third update."""
    torch.set_num_threads(1)
    _meet(rank, 3, folder)
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    attach(optimizer, model)
    wrapped = DistributedDataParallel(model)
    for update in range(1000):
        if (rank, update) == (1, 2):
            if how == 'killed':
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError('the reason')
        wrapped(torch.randn(2, 3, 8, 8, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def _meet(rank: int, size: int, folder: str) -> None:
    store, timeout = f'file://{folder}/store', timedelta(seconds=60)
    distributed.init_process_group('gloo', store, timeout, size, rank)
