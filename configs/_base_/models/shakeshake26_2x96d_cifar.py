# Shake-shake of 26 layers, 2x96d (1705.07485), the largest one of the paper on CIFAR-10.
_base_ = './shakeshake26_2x32d_cifar.py'

model = dict(backbone=dict(first_stage_channels=96), head=dict(in_channels=384))
