# The networks of cifar10.py on CIFAR-100; seeds, options and arms are those on CIFAR-10.
_base_ = './cifar10.py'

title = 'CIFAR-100, the recipes of the authors'
settings = {
    '_delete_': True,
    'AlexNet': dict(config='configs/cifar/alexnet{arm}_cifar100.py'),
    'VGG19-BN': dict(config='configs/cifar/vgg19bn{arm}_cifar100.py'),
    'ResNet-20': dict(config='configs/cifar/resnet20{arm}_cifar100.py'),
    'ResNet-32': dict(config='configs/cifar/resnet32{arm}_cifar100.py'),
    'ResNet-50 (6n+2)': dict(config='configs/cifar/resnet50{arm}_cifar100.py'),
    'ResNet-56': dict(config='configs/cifar/resnet56{arm}_cifar100.py'),
    'PreResNet-110': dict(config='configs/cifar/preresnet110{arm}_cifar100.py'),
    'ResNeXt-29 8x64d': dict(config='configs/cifar/resnext29_8x64d{arm}_cifar100.py'),
    'WRN-28-10': dict(config='configs/cifar/wrn28_10{arm}_cifar100.py'),
    'DenseNet-BC 40/12': dict(config='configs/cifar/densenet40_12{arm}_cifar100.py'),
    'DenseNet-BC 100/12': dict(config='configs/cifar/densenet100_12{arm}_cifar100.py'),
}
