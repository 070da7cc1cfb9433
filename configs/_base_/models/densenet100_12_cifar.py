# DenseNet-BC (1608.06993) of 100 layers with growth rate 12.
_base_ = './densenet40_12_cifar.py'

model = dict(backbone=dict(blocks=100), head=dict(in_channels=342))
