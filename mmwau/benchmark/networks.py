"""The networks that are measured, each with one batch of random data."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmwau.targets import DEFAULT_TARGETS


class Network(NamedTuple):
    """A network with a batch.

    Attributes:
        model: The network, in training mode.
        loss: Computes the loss of the batch, a scalar, for a copy of the model.
        targets: Module-name prefixes below which convolutions are held.
        data: What the batch is, in words.
        first_stages: Module-name prefixes of the stem and the first stages, about half of the
            stages: what is frozen where people freeze the first stages for good.
    """

    model: nn.Module
    loss: Callable[[nn.Module], Tensor]
    targets: tuple[str, ...]
    data: str
    first_stages: tuple[str, ...] = ()


class Classifier(NamedTuple):
    """A classifier of torchvision or pytorchcv; ``size`` is the height and width of its images."""

    package: str
    batch: int
    size: int
    first_stages: tuple[str, ...]


DETECTOR = 'faster_rcnn_r50_fpn'
OF_RESNET = ('conv1', 'bn1', 'layer1', 'layer2')
OF_CIFAR = ('features.init_block', 'features.stage1')
CLASSIFIERS = {
    'resnet50': Classifier('torchvision', 8, 160, OF_RESNET),
    'resnet18': Classifier('torchvision', 8, 160, OF_RESNET),
    'mobilenet_v2': Classifier(
        'torchvision', 8, 160, tuple(f'features.{place}' for place in range(7))
    ),
    'wrn28_10_cifar10': Classifier('pytorchcv', 4, 32, OF_CIFAR),
    'densenet40_k12_bc_cifar10': Classifier('pytorchcv', 32, 32, OF_CIFAR),
    'resnet20_cifar10': Classifier('pytorchcv', 64, 32, OF_CIFAR),
}
NETWORKS = (*CLASSIFIERS, DETECTOR)


def build_network(name: str, device: torch.device) -> Network:
    """Build one of :data:`NETWORKS` with random weights and a random batch.

    Raises:
        ValueError: If the name is not one of them.
        ModuleNotFoundError: If the package that has the network is not installed.
    """
    torch.manual_seed(0)
    if name == DETECTOR:
        return _detector(device)
    if name not in CLASSIFIERS:
        raise ValueError(f'networks must be some of {", ".join(NETWORKS)}, got {name!r}')
    package, batch, size, first_stages = CLASSIFIERS[name]
    if package == 'torchvision':
        from torchvision.models import get_model
    else:
        from pytorchcv.model_provider import get_model
    model = get_model(name).train().to(device)
    images = torch.randn(batch, 3, size, size, device=device)
    classes = torch.randint(10, (batch,), device=device)

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(images), classes)

    return Network(model, loss, ('',), f'batch {batch} at {size}x{size}', first_stages)


def _detector(device: torch.device) -> Network:
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules
    from mmengine.hub import get_config
    from mmengine.model import BaseModel
    from mmengine.registry import MODELS

    register_all_modules()
    cfg = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).train().to(device)
    inputs = demo_mm_inputs(2, [[3, 320, 320]] * 2, num_items=[8, 8], num_classes=80)
    batch = model.data_preprocessor(inputs, True)

    def loss(model: BaseModel) -> Tensor:
        losses = model(**batch, mode='loss')
        return model.parse_losses(losses)[0]

    # Its config freezes the stem and the first stage already.
    first_stages = tuple(f'backbone.{name}' for name in OF_RESNET)
    return Network(model, loss, DEFAULT_TARGETS, 'batch 2 at 320x320', first_stages)
