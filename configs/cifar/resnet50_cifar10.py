# ResNet-50 (6n+2 layers) on CIFAR-10; the baseline of resnet50_{wau,wau_authors}_cifar10.py.
_base_ = [
    '../_base_/models/resnet50_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_164e.py',
    '../_base_/cifar_runtime.py',
]
