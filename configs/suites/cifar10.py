# The eight networks of the authors' code and three more ResNets on CIFAR-10 with all epochs, and
# controls of how far filters moved. For GPUs.
title = 'CIFAR-10, the recipes of the authors'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
options = {'custom_hooks.0.movement': True}
settings = {
    'AlexNet': dict(config='configs/cifar/alexnet{arm}_cifar10.py'),
    'VGG19-BN': dict(config='configs/cifar/vgg19bn{arm}_cifar10.py'),
    'ResNet-20': dict(config='configs/cifar/resnet20{arm}_cifar10.py'),
    'ResNet-32': dict(config='configs/cifar/resnet32{arm}_cifar10.py'),
    'ResNet-50 (6n+2)': dict(config='configs/cifar/resnet50{arm}_cifar10.py'),
    'ResNet-56': dict(config='configs/cifar/resnet56{arm}_cifar10.py'),
    'PreResNet-110': dict(config='configs/cifar/preresnet110{arm}_cifar10.py'),
    'ResNeXt-29 8x64d': dict(config='configs/cifar/resnext29_8x64d{arm}_cifar10.py'),
    'WRN-28-10': dict(config='configs/cifar/wrn28_10{arm}_cifar10.py'),
    'DenseNet-BC 40/12': dict(config='configs/cifar/densenet40_12{arm}_cifar10.py'),
    'DenseNet-BC 100/12': dict(config='configs/cifar/densenet100_12{arm}_cifar10.py'),
}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
    "WAU, hold='state'": dict(config='_wau', options={'optim_wrapper.hold': 'state'}),
    'WAU, rescale': dict(config='_wau', options={'optim_wrapper.rescale': True}),
}
