# ResNeXt-29 8x64d on CIFAR-10; the baseline of resnext29_8x64d_{wau,wau_authors}_cifar10.py.
_base_ = [
    '../_base_/models/resnext29_8x64d_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_300e.py',
    '../_base_/cifar_runtime.py',
]
