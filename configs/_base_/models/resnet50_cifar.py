# ResNet-50 for CIFAR: 6n+2 layers of basic blocks, n=8.
# Not the ResNet-50 of ImageNet, which has bottlenecks.
_base_ = './resnet20_cifar.py'

model = dict(backbone=dict(blocks=50))
