# Networks that the paper cites, on CIFAR-10, with recipes that follow their own papers as far as
# these train on CIFAR. For GPUs.
title = 'CIFAR-10, networks that the paper cites'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
options = {'custom_hooks.0.movement': True}
settings = {
    'GoogLeNet': dict(config='configs/cifar/googlenet{arm}_cifar10.py'),
    'Shake-shake 26 2x32d': dict(config='configs/cifar/shakeshake26_2x32d{arm}_cifar10.py'),
    'Shake-shake 26 2x96d': dict(config='configs/cifar/shakeshake26_2x96d{arm}_cifar10.py'),
    'ShakeDrop ResNet-110': dict(config='configs/cifar/shakedrop110{arm}_cifar10.py'),
}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
    'WAU, whole layers': dict(config='_wau_layers'),
}
