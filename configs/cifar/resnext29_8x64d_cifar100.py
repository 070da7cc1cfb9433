# ResNeXt-29 8x64d on CIFAR-100; the baseline of resnext29_8x64d_{wau,wau_authors}_cifar100.py.
_base_ = [
    '../_base_/models/resnext29_8x64d_cifar.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py',
    '../_base_/cifar_runtime.py',
]

model = dict(head=dict(num_classes=100))
