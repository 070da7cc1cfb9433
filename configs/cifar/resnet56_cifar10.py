# ResNet-56 on CIFAR-10; the baseline of resnet56_{wau,wau_authors}_cifar10.py.
_base_ = [
    '../_base_/models/resnet56_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_164e.py',
    '../_base_/cifar_runtime.py',
]
