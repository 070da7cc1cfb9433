# RePr: 3 times 20 epochs of all filters and 10 without the 30 % that overlap most; then the rest of
# the 164 epochs of all. resnet20_cifar10.py is its baseline.
_base_ = './resnet20_cifar10.py'

custom_hooks = [
    dict(type='OverlapHook'),
    dict(type='RePrHook', full_epochs=20, sub_epochs=10, drop_ratio=0.3, cycles=3),
]
