# ResNet-56 for CIFAR: 6n+2 layers of basic blocks, n=9.
_base_ = './resnet20_cifar.py'

model = dict(backbone=dict(blocks=56))
