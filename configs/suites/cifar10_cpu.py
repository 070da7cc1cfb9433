# CIFAR-10 on two CPU cores: few images and many epochs in two networks, many images and few epochs,
# and controls of how far filters moved. Data, from image folders:
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
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
    "WAU, hold='state'": dict(config='_wau', options={'optim_wrapper.hold': 'state'}),
    # A step of WRN-10-2 takes 0.907 of the baseline's time: 44 epochs for 40.
    "WAU, hold='state', equal time": dict(
        config='_wau',
        options={
            'optim_wrapper.hold': 'state',
            'train_cfg.max_epochs': 44,
            'train_cfg.val_interval': 22,
            'param_scheduler.milestones': [13, 26, 35],
        },
    ),
    'baseline, learning rate × 0.5': dict(options={'optim_wrapper.optimizer.lr': 0.05}),
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
        arms=[arm for arm in arms if 'equal time' not in arm],
    ),
    # Twice as wide. As in its recipe the rate falls after 0.3, 0.6 and 0.8 of the epochs.
    'WRN-10-2, 1,500 images × 40 epochs': dict(
        config='configs/cifar/wrn28_10{arm}_cifar10.py',
        options={
            'model.backbone.depth': 10,
            'model.backbone.widen_factor': 2,
            'model.backbone.dropout': 0.0,
            'model.head.in_channels': 128,
            'train_dataloader.dataset.indices': 1500,
            'train_cfg.max_epochs': 40,
            'train_cfg.val_interval': 20,
            'param_scheduler.milestones': [12, 24, 32],
        },
        arms=[
            'baseline',
            'WAU',
            "WAU, authors' code",
            "WAU, hold='state'",
            "WAU, hold='state', equal time",
            'baseline, learning rate × 0.5',
            'WAU, rescale',
        ],
    ),
    'ResNet-20, 10,000 images × 4 epochs': dict(
        config='configs/cifar/resnet20{arm}_cifar10.py',
        options={
            'train_dataloader.dataset.indices': 10000,
            'train_cfg.max_epochs': 4,
            'train_cfg.val_interval': 2,
            'param_scheduler.milestones': [2, 3],
        },
        arms=[
            'baseline',
            'WAU',
            "WAU, authors' code",
            "WAU, hold='state'",
            'baseline, learning rate × 0.5',
            'WAU, rescale',
        ],
    ),
}
