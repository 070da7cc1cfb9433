# Dropout between the two convolutions of every block, where wide residual networks have it
# (1605.07146). resnet20_cifar10.py is its baseline.
_base_ = './resnet20_cifar10.py'

custom_hooks = [
    dict(type='OverlapHook'),
    dict(type='DropoutHook', drop_prob=0.3, modules='backbone.stage*.unit*.body.conv1'),
]
