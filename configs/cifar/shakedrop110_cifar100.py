# ResNet-110 with ShakeDrop on CIFAR-100; the baseline of
# shakedrop110_{wau,wau_authors,wau_layers}_cifar100.py.
_base_ = [
    '../_base_/models/shakedrop110_cifar.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_shakedrop.py',
    '../_base_/cifar_runtime.py',
]

model = dict(head=dict(num_classes=100))
