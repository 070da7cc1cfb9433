# Networks that the paper cites, on CIFAR-100; seeds, options and arms are those on CIFAR-10.
_base_ = './references_cifar10.py'

title = 'CIFAR-100, networks that the paper cites'
settings = {
    '_delete_': True,
    'GoogLeNet': dict(config='configs/cifar/googlenet{arm}_cifar100.py'),
    'Shake-shake 26 2x32d': dict(config='configs/cifar/shakeshake26_2x32d{arm}_cifar100.py'),
    'Shake-shake 26 2x96d': dict(config='configs/cifar/shakeshake26_2x96d{arm}_cifar100.py'),
    'ShakeDrop ResNet-110': dict(config='configs/cifar/shakedrop110{arm}_cifar100.py'),
}
