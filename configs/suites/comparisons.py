# Methods that the paper cites, beside WAU: ResNet-20 on CIFAR-10. For a GPU.
title = 'ResNet-20 on CIFAR-10: WAU and other methods'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
options = {'custom_hooks.0.movement': True}
settings = {'ResNet-20': dict(config='configs/cifar/resnet20{arm}_cifar10.py')}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
    'RePr': dict(config='_repr'),
    'SO': dict(config='_so'),
    'SRIP': dict(config='_srip'),
    'dropout': dict(config='_dropout'),
    'DSD': dict(config='_dsd'),
}
