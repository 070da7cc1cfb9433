# WRN-28-10 on CIFAR-100; the baseline of wrn28_10_{wau,wau_authors}_cifar100.py.
_base_ = [
    '../_base_/models/wrn28_10_cifar.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_200e.py',
    '../_base_/cifar_runtime.py',
]

model = dict(head=dict(num_classes=100))
