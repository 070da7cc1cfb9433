# SRIP with the paper's coefficients and epochs, and the weight decay of the baseline,
# resnet20_cifar10.py (the paper's is 1e-8).
_base_ = './resnet20_cifar10.py'

custom_hooks = [
    dict(type='OverlapHook'),
    dict(
        type='OrthogonalityHook',
        kind='srip',
        coefficients=[0.1, 1e-3, 1e-4, 1e-6, 0],
        milestones=[20, 50, 70, 120],
    ),
]
