# A born-again network (1805.04770): it learns from the labels and from resnet20_cifar10.py, which
# is its baseline and has to be trained first.
_base_ = './resnet20_cifar10.py'

custom_hooks = [
    dict(type='OverlapHook'),
    dict(type='BornAgainHook', teacher='work_dirs/resnet20_cifar10/epoch_164.pth'),
]
