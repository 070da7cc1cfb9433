# WRN-28-10 on CIFAR-10; the baseline of wrn28_10_{wau,wau_authors}_cifar10.py.
_base_ = [
    '../_base_/models/wrn28_10_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_200e.py',
    '../_base_/cifar_runtime.py',
]
