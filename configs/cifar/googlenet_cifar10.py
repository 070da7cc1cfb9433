# GoogLeNet for CIFAR on CIFAR-10; the baseline of
# googlenet_{wau,wau_authors,wau_layers}_cifar10.py.
_base_ = [
    '../_base_/models/googlenet_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_164e.py',
    '../_base_/cifar_runtime.py',
]
