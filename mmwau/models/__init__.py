"""Backbones that OpenMMLab lacks: the networks of the CIFAR experiments, one to fine-tune."""

from .cifar_alexnet import CIFARAlexNet
from .cifar_wide_resnet import CIFARWideResNet
from .pytorchcv_backbone import PytorchCVBackbone
from .timm_efficientnet import TimmEfficientNet

__all__ = ['CIFARAlexNet', 'CIFARWideResNet', 'PytorchCVBackbone', 'TimmEfficientNet']
