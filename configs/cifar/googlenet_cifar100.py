# GoogLeNet for CIFAR on CIFAR-100; the baseline of
# googlenet_{wau,wau_authors,wau_layers}_cifar100.py.
_base_ = [
    '../_base_/models/googlenet_cifar.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_164e.py',
    '../_base_/cifar_runtime.py',
]

model = dict(head=dict(num_classes=100))
