"""Backbones that OpenMMLab lacks: networks of the experiments, and one to fine-tune."""

from .cifar_alexnet import CIFARAlexNet
from .cifar_wide_resnet import CIFARWideResNet
from .googlenet import CIFARGoogLeNet, GoogLeNet
from .narrow_vgg import NarrowVGG
from .pytorchcv_backbone import PytorchCVBackbone
from .timm_efficientnet import TimmEfficientNet

__all__ = [
    'CIFARAlexNet',
    'CIFARGoogLeNet',
    'CIFARWideResNet',
    'GoogLeNet',
    'NarrowVGG',
    'PytorchCVBackbone',
    'TimmEfficientNet',
]
