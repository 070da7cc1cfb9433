# CIFAR-10 on two CPU cores: few images and many epochs, many images and few epochs (as many updates
# in both), and controls of how far filters moved. Data, from image folders:
#   python tools/dataset_converters/cifar_folders_to_batches.py FOLDERS data/cifar10
title = 'CIFAR-10 on two CPU cores'
metric = 'accuracy/top1'
seeds = [0, 1, 2]
options = {
    'train_dataloader.dataset.type': 'CIFARBatches',
    'val_dataloader.dataset.type': 'CIFARBatches',
    'test_dataloader.dataset.type': 'CIFARBatches',
    # Half of the recipe's batch, for more updates in the same time.
    'train_dataloader.batch_size': 64,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'custom_hooks.0.overlap_interval': 20,
    'custom_hooks.0.movement': True,
    'default_hooks.logger.interval': 10,
    'default_hooks.checkpoint.interval': 5,
}
settings = {
    # As in the recipe the learning rate falls after 1/2 and 3/4 of the epochs.
    'ResNet-20, 1,500 images × 40 epochs': dict(
        config='configs/cifar/resnet20{arm}_cifar10.py',
        options={
            'train_dataloader.dataset.indices': 1500,
            'train_cfg.max_epochs': 40,
            'train_cfg.val_interval': 20,
            'param_scheduler.milestones': [20, 30],
        },
    ),
    'ResNet-20, 10,000 images × 6 epochs': dict(
        config='configs/cifar/resnet20{arm}_cifar10.py',
        arms=['plain', 'WAU', "WAU, authors' code", "WAU, hold='state'"],
        options={
            'train_dataloader.dataset.indices': 10000,
            'train_cfg.max_epochs': 6,
            'train_cfg.val_interval': 3,
            'param_scheduler.by_epoch': False,
            'param_scheduler.milestones': [471, 706],
        },
    ),
}
arms = {
    'plain': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
    "WAU, hold='state'": dict(config='_wau', options={'optim_wrapper.hold': 'state'}),
    'plain, learning rate × 0.5': dict(options={'optim_wrapper.optimizer.lr': 0.05}),
    'WAU, rescale': dict(config='_wau', options={'optim_wrapper.rescale': True}),
    "WAU, authors' code, rescale": dict(
        config='_wau_authors', options={'optim_wrapper.rescale': True}
    ),
    'WAU, ratio 0.25': dict(config='_wau', options={'optim_wrapper.update_ratio': 0.25}),
    'WAU, ratio 0.75': dict(config='_wau', options={'optim_wrapper.update_ratio': 0.75}),
    # The epochs of these are in proportion to those of their configs.
    'SO': dict(config='_so', options={'custom_hooks.1.milestones': [5, 12, 17, 29]}),
    'RePr': dict(
        config='_repr', options={'custom_hooks.1.full_epochs': 5, 'custom_hooks.1.sub_epochs': 2}
    ),
}
