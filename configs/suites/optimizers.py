# Other optimizers under WAU: ResNet-20 on CIFAR-10 with SGD, Adam and AdaGrad. For a GPU.
title = 'ResNet-20 on CIFAR-10 with three optimizers'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
options = {'custom_hooks.0.movement': True}
settings = {
    'SGD': dict(config='configs/cifar/resnet20{arm}_cifar10.py'),
    'Adam': dict(config='configs/cifar/resnet20{arm}_adam_cifar10.py'),
    'AdaGrad': dict(config='configs/cifar/resnet20{arm}_adagrad_cifar10.py'),
}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
}
