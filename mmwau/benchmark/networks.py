"""The networks that are measured, each with one batch of random data."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmwau.targets import DEFAULT_TARGETS

CIFAR = {
    'resnet56_cifar10': 64,
    'densenet40_k12_bc_cifar10': 32,
    'wrn28_10_cifar10': 4,
}
NETWORKS = ('resnet50', 'faster_rcnn_r50_fpn', *CIFAR)


class Network(NamedTuple):
    """A network with a batch.

    Attributes:
        model: The network, in training mode.
        loss: Computes the loss of the batch, a scalar, for a copy of the model.
        targets: Module-name prefixes below which convolutions are held.
        data: What the batch is, in words.
    """

    model: nn.Module
    loss: Callable[[nn.Module], Tensor]
    targets: tuple[str, ...]
    data: str


def build_network(name: str, device: torch.device) -> Network:
    """Build one of :data:`NETWORKS` with random weights and a random batch.

    Raises:
        ValueError: If the name is not one of them.
        ModuleNotFoundError: If the package that has the network is not installed.
    """
    torch.manual_seed(0)
    if name == 'resnet50':
        from torchvision.models import resnet50

        return _classifier(resnet50(num_classes=1000), 8, 160, device)
    if name in CIFAR:
        from pytorchcv.model_provider import get_model

        return _classifier(get_model(name), CIFAR[name], 32, device)
    if name == 'faster_rcnn_r50_fpn':
        return _detector(device)
    raise ValueError(f'networks must be some of {", ".join(NETWORKS)}, got {name!r}')


def _classifier(model: nn.Module, batch: int, size: int, device: torch.device) -> Network:
    images = torch.randn(batch, 3, size, size, device=device)
    classes = torch.randint(10, (batch,), device=device)

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(images), classes)

    return Network(model.train().to(device), loss, ('',), f'batch {batch} at {size}x{size}')


def _detector(device: torch.device) -> Network:
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules
    from mmengine.hub import get_config
    from mmengine.registry import MODELS

    register_all_modules()
    cfg = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).train().to(device)
    inputs = demo_mm_inputs(2, [[3, 320, 320]] * 2, num_items=[8, 8], num_classes=80)
    batch = model.data_preprocessor(inputs, True)

    def loss(model: nn.Module) -> Tensor:
        losses = model(**batch, mode='loss')
        return model.parse_losses(losses)[0]

    return Network(model, loss, DEFAULT_TARGETS, 'batch 2 at 320x320')
