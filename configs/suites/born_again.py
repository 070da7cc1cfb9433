# Born-again networks: ResNet-20 on CIFAR-10 in three generations, without WAU and with it. For a
# GPU, one training at a time in the default work_dir, since a student needs its teacher. A
# teacher's seed is its student's with a 1 before it: as in the paper, each generation starts from
# weights of its own.
title = 'ResNet-20 on CIFAR-10, born again'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
options = {'custom_hooks.0.movement': True}
config = 'configs/cifar/resnet20{arm}_cifar10.py'
teacher = 'work_dirs/born_again/GENERATION/ARM/seed1{seed}/epoch_164.pth'
first = teacher.replace('GENERATION', 'first_generation')
second = teacher.replace('GENERATION', 'second_generation')
settings = {
    'first generation': dict(config=config, seeds=[110, 111, 112], arms=['baseline', 'WAU']),
    'second generation': dict(
        config=config,
        seeds=[10, 11, 12],
        arms=['baseline', 'born again', 'WAU', 'WAU, born again'],
    ),
    'third generation': dict(
        config=config,
        arms=['baseline', 'born again twice', 'WAU', 'WAU, born again twice'],
    ),
}
arms = {
    'baseline': dict(),
    'born again': dict(
        config='_born_again',
        options={'custom_hooks.1.teacher': first.replace('ARM', 'baseline')},
    ),
    'born again twice': dict(
        config='_born_again',
        options={'custom_hooks.1.teacher': second.replace('ARM', 'born_again')},
    ),
    'WAU': dict(config='_wau'),
    'WAU, born again': dict(
        config='_wau_born_again',
        options={'custom_hooks.1.teacher': first.replace('ARM', 'wau')},
    ),
    'WAU, born again twice': dict(
        config='_wau_born_again',
        options={'custom_hooks.1.teacher': second.replace('ARM', 'wau_born_again')},
    ),
}
del config, teacher, first, second
