"""Write docs/coco_plan.md: what WAU would cost and save on COCO, counted without any data.

Multiplications are counted in a forward pass on torch's meta device, which computes nothing.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from mmengine.registry import MODELS
from torch import nn

from mmwau import find_layers
from mmwau.files.whole import write_whole
from mmwau.targets import DEFAULT_TARGETS

PAGE = Path(__file__).with_suffix('.md')
NETWORKS = {
    'R50-FPN': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'X-101-64x4d-FPN': 'mmdet::faster_rcnn/faster-rcnn_x101-64x4d_fpn_1x_coco.py',
}
# Images of 800x1333, padded; the regions that are trained on in each; images of train2017 with
# boxes, and how often the schedule 1x shows them; images on a GPU.
SIZE, REGIONS, IMAGES, EPOCHS, PER_GPU = (800, 1344), 512, 117_266, 12, 2
GPUS = (8, 64)
HEAD = f"""\
# COCO on many GPUs: what WAU would cost and save

Nobody has trained a WAU config on COCO yet. This page says what can be counted before: by
`python docs/coco_plan.py`, from MMDetection's Faster R-CNN (1x, stem and first stage frozen, images
of 800×1333, {PER_GPU} on a GPU), with `update_ratio=0.5` on all convolutions of backbone and neck.
What a multiplication or a byte takes depends on the machine, so there are no seconds here;
[measured steps](speed.md) are of CPUs, and `make gpu-check` [measures a GPU](speed.md#on-a-gpu).

"""


class Counts(NamedTuple):
    """What a training step of one image is made of.

    Attributes:
        whole: Multiplications of a step of the baseline.
        held: Those of the weight gradients of all layers that WAU can hold.
        parameters: Parameters that are trained.
        slices: Those of them that WAU can hold.
        tensors: Tensors that WAU can hold.
    """

    whole: int
    held: int
    parameters: int
    slices: int
    tensors: int


def count(config: str) -> Counts:
    """Count the multiplications of a step of a network, and its parameters."""
    cfg = get_config(config)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).train()
    layers = find_layers(model, DEFAULT_TARGETS)
    trained = [param.numel() for param in model.parameters() if param.requires_grad]
    sizes = [param.numel() for layer in layers.values() for param, _ in layer.tensors]
    whole = held = 0

    def watch(name: str, module: nn.Module) -> None:
        def add(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            nonlocal whole, held
            forward = output.numel() * module.weight[0].numel()
            # The gradients of its input and of its weight take as many, where they are computed.
            whole += forward * (1 + inputs[0].requires_grad + module.weight.requires_grad)
            held += forward * (name in layers)

        module.register_forward_hook(add)

    for name, module in model.to('meta').named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            watch(name, module)
    features = model.extract_feat(torch.zeros(1, 3, *SIZE, device='meta'))
    model.rpn_head(features)
    regions = torch.zeros(REGIONS, features[0].shape[1], 7, 7, device='meta')
    # The regions' features have gradients, as those that are pooled from the pyramid.
    model.roi_head.bbox_head(regions.requires_grad_())
    return Counts(whole, held, sum(trained), sum(sizes), len(sizes))


def page() -> str:
    """The whole page."""
    register_all_modules()
    counts = {name: count(config) for name, config in NETWORKS.items()}
    parts = [HEAD, '| | ' + ' | '.join(counts) + ' |\n|---|', '--:|' * len(counts) + '\n']
    for what, cell in ROWS.items():
        parts.append(f'| {what} | ' + ' | '.join(map(cell, counts.values())) + ' |\n')
    parts.append(READINGS)
    parts.append(
        '| GPUs | iterations | '
        + ' | '.join(f'{name}: sent by each GPU, an iteration | whole training' for name in counts)
        + ' |\n|--:|--:|'
        + '--:|--:|' * len(counts)
        + '\n'
    )
    for gpus in GPUS:
        iterations = EPOCHS * -(-IMAGES // (gpus * PER_GPU))
        cells = [str(gpus), f'{iterations:,}']
        for each in counts.values():
            both = [2 * (gpus - 1) / gpus * 4 * number for number in sent(each)]
            cells.append(' → '.join(f'{number / 1e6:.0f} MB' for number in both))
            cells.append(' → '.join(f'{number * iterations / 1e12:.1f} TB' for number in both))
        parts.append(f'| {" | ".join(cells)} |\n')
    return ''.join([*parts, FOOT])


def sent(each: Counts) -> tuple[float, float]:
    """Numbers of gradients that are sent: all, and only those of active slices."""
    return each.parameters, each.parameters - each.slices / 2


ROWS = {
    'multiplications of a training step, an image': lambda it: f'{it.whole / 1e9:.0f} G',
    'of these, weight gradients that WAU can skip': lambda it: f'{it.held / it.whole:.1%}',
    'a step by whole layers, at best': lambda it: f'{1 - it.held / it.whole / 2:.3f}',
    'trained parameters': lambda it: f'{it.parameters / 1e6:.1f} M',
    'of these, in slices that WAU can hold': lambda it: f'{it.slices / it.parameters:.1%}',
    'tensors of these': lambda it: f'{it.tensors}',
    "copies during a step, `hold='weight'`": lambda it: f'{it.slices * 2 / 1e6:.0f} MB',
    'gradients sent with `send_active_only`': lambda it: f'{sent(it)[1] / it.parameters:.3f}',
}
READINGS = """
| reading | computing | memory | launches | gradients sent |
|---|---|---|---|---|
| paper's words, `hold='weight'` | all of the baseline's | the copies above, during a step | 2 \
more for each tensor | all |
| authors' code (`axis='in'`, with replacement) | the same; on average 39 % of the slices \
are active | the same, of 61 % | the same | all |
| filters, `hold='state'`, skipping | between the two: gathering takes a part of what is \
saved | copies of what is active | more | as above |
| whole layers, `hold='state'` | down to the step above | none | fewer than the baseline's | \
as above |

**Bytes.** In a ring, each of N processes sends 2 (N - 1) / N times the gradients. With float32, all
gradients → only those of active slices:

"""
FOOT = """
Whether this makes a step shorter depends on whether the gradients are sent while others are still
computed: what is hidden costs nothing, and saves nothing. At 64 GPUs and a batch of 128 there are
so few iterations that a filter which moves in half of them moves some 5,500 times; the learning
rate has to be chosen anew for that batch, with WAU and without.
"""


if __name__ == '__main__':
    write_whole(page().encode(), PAGE)
    print(f'Written: {PAGE}')
