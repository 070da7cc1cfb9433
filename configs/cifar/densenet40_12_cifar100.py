# DenseNet-BC-40-12 on CIFAR-100; the baseline of densenet40_12_{wau,wau_authors}_cifar100.py.
_base_ = [
    '../_base_/models/densenet40_12_cifar.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py',
    '../_base_/cifar_runtime.py',
]

model = dict(head=dict(num_classes=100))
train_dataloader = dict(batch_size=64)
auto_scale_lr = dict(base_batch_size=64)
