"""Backbones that MMPreTrain lacks: the networks of the paper's CIFAR experiments."""

from .cifar_alexnet import CIFARAlexNet
from .cifar_wide_resnet import CIFARWideResNet
from .pytorchcv_backbone import PytorchCVBackbone

__all__ = ['CIFARAlexNet', 'CIFARWideResNet', 'PytorchCVBackbone']
