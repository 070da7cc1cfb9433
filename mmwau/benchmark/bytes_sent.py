"""Count what two processes send each other, with and without the held slices."""

import json
import tempfile
from pathlib import Path

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from mmwau import WAU, find_layers
from mmwau.skipping import HeldGradSkipper
from mmwau.traffic import send_active_only

UPDATES = 3


def bytes_sent(model: nn.Module, image_size: int, ratio: float) -> dict[str, float]:
    """Train a classifier, all its convolutions held, on two processes over gloo, and count.

    Returns:
        ``'held layers'``: gradient bytes of held layers given to the all-reduce in an update, as a
        ratio to sending all of them. ``'network'``: the same over all layers. ``'wire'``: the
        same, as bytes counted by the loopback interface, where the system reports them (Linux).
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, model, image_size, ratio)
        multiprocessing.spawn(_train, arguments, nprocs=2)
        return json.loads(Path(folder, 'counted.json').read_text())


def _train(rank: int, folder: str, model: nn.Module, image_size: int, ratio: float) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2
    )
    wrapped = DistributedDataParallel(model)
    traffic = send_active_only(wrapped)
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers)
    images = torch.randn(2, 3, image_size, image_size)
    wire, counted = {}, {}
    for name, wau in (('all', WAU(1)), ('active', WAU(ratio))):
        for update in range(1 + UPDATES):
            if update == 1:  # the first one arranges the buckets
                distributed.barrier()
                start = _bytes_of_loopback()
            active = wau.select(layers.values(), update)
            traffic.start(layers.values(), active)
            with skipper.skipping(active):
                wrapped(images).square().mean().backward()
            skipper.grads.clear()  # no step is made with them
        distributed.barrier()
        wire[name] = _bytes_of_loopback() - start
        counted[name] = traffic.sent_bytes
    held = sum(param.numel() for layer in layers.values() for param, _ in layer.tensors)
    others = 4 * (sum(param.numel() for param in model.parameters()) - held)
    result = {
        'held layers': (counted['active'] - others) / (counted['all'] - others),
        'network': counted['active'] / counted['all'],
    }
    if wire['all']:
        result['wire'] = wire['active'] / wire['all']
    if rank == 0:
        Path(folder, 'counted.json').write_text(json.dumps(result))
    distributed.barrier()
    distributed.destroy_process_group()


def _bytes_of_loopback() -> int:
    """Bytes that the loopback interface has received, 0 if the system does not report them."""
    table = Path('/proc/net/dev')
    if not table.exists():
        return 0
    rows = (line.split(':') for line in table.read_text().splitlines() if ':' in line)
    return sum(int(row[1].split()[0]) for row in rows if row[0].strip() == 'lo')
