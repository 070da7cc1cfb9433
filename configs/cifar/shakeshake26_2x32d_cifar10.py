# Shake-shake 26 2x32d on CIFAR-10; the baseline of
# shakeshake26_2x32d_{wau,wau_authors,wau_layers}_cifar10.py.
_base_ = [
    '../_base_/models/shakeshake26_2x32d_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_shakeshake.py',
    '../_base_/cifar_runtime.py',
]
