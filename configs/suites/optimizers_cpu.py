# Other optimizers under WAU on two CPU cores: ResNet-20 on 1,500 images of CIFAR-10 with SGD, Adam
# and AdaGrad, 36 trainings of a minute of one core. Data as for cifar10_cpu.py.
#
# Each optimizer has the learning rate of its config: that of the authors' code for SGD, our own
# choice for Adam and AdaGrad. No rate was searched, for no arm. So this compares the arms of an
# optimizer with its baseline; it does not compare the optimizers, and an arm that moves filters
# less may do better or worse than at a rate of its own.
title = 'ResNet-20 with three optimizers on two CPU cores'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
options = {
    'train_dataloader.dataset.type': 'CIFARBatches',
    'val_dataloader.dataset.type': 'CIFARBatches',
    'test_dataloader.dataset.type': 'CIFARBatches',
    'train_dataloader.dataset.indices': 1500,
    # Half of the recipe's batch, for more updates in the same time.
    'train_dataloader.batch_size': 64,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    # As many as there is time for, since the curve has a point for each epoch.
    'val_dataloader.dataset.indices': 1500,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'custom_hooks.0.overlap_interval': 20,
    'custom_hooks.0.movement': True,
    'default_hooks.logger.interval': 10,
    'default_hooks.checkpoint.interval': 5,
    'train_cfg.max_epochs': 12,
    'train_cfg.val_interval': 1,
    # As in the recipe the rate falls after 1/2 and 3/4 of the epochs.
    'param_scheduler.milestones': [6, 9],
}
settings = {
    'SGD': dict(config='configs/cifar/resnet20{arm}_cifar10.py'),
    'Adam': dict(config='configs/cifar/resnet20{arm}_adam_cifar10.py'),
    'AdaGrad': dict(config='configs/cifar/resnet20{arm}_adagrad_cifar10.py'),
}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
    'WAU, whole layers': dict(
        config='_wau', options={'optim_wrapper.axis': 'layer', 'optim_wrapper.hold': 'state'}
    ),
}
