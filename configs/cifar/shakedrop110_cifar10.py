# ResNet-110 with ShakeDrop on CIFAR-10; the baseline of
# shakedrop110_{wau,wau_authors,wau_layers}_cifar10.py.
_base_ = [
    '../_base_/models/shakedrop110_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_shakedrop.py',
    '../_base_/cifar_runtime.py',
]
