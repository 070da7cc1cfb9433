# DSD within the 164 epochs of the baseline, resnet20_cifar10.py, and with its learning rate: that
# falls to a tenth where the sparse stage begins, and again where it ends, as in the paper.
_base_ = './resnet20_cifar10.py'

custom_hooks = [
    dict(type='OverlapHook'),
    dict(type='DSDHook', begin=81, end=122, sparsity=0.3),
]
