# ResNet-50 and GoogLeNet on ImageNet, MMPreTrain's recipe for 8 GPUs.
title = 'ResNet-50 and GoogLeNet on ImageNet'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
processes = 8
options = {
    'custom_hooks.0.movement': True,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
}
settings = {
    'ResNet-50': dict(config='configs/imagenet/resnet50{arm}_8xb32_in1k.py'),
    'GoogLeNet': dict(config='configs/imagenet/googlenet{arm}_8xb32_in1k.py'),
}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
}
