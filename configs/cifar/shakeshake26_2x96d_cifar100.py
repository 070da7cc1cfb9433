# Shake-shake 26 2x96d on CIFAR-100; the baseline of
# shakeshake26_2x96d_{wau,wau_authors,wau_layers}_cifar100.py.
_base_ = [
    '../_base_/models/shakeshake26_2x96d_cifar.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_shakeshake.py',
    '../_base_/cifar_runtime.py',
]

model = dict(head=dict(num_classes=100))
