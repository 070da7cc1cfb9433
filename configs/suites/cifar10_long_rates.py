# ResNet-20 with a long schedule, 6,250 updates: the learning rate of each arm, chosen on training
# images that it is not trained on. The seed is none of those of the comparison. Its data are those
# of cifar10_cpu.py.
title = 'ResNet-20, long schedule: learning rates'
metric = 'accuracy/top1'
seeds = [100]
options = {
    'train_dataloader.dataset.type': 'CIFARBatches',
    'val_dataloader.dataset.type': 'CIFARBatches',
    'test_dataloader.dataset.type': 'CIFARBatches',
    'train_dataloader.dataset.indices': 2000,
    'train_dataloader.batch_size': 16,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.dataset.split': 'train',
    'val_dataloader.dataset.indices': -4000,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'custom_hooks.0.overlap_interval': 100,
    'default_hooks.checkpoint.interval': 10,
    'train_cfg.max_epochs': 50,
    'train_cfg.val_interval': 50,
    # As in the recipe the rate falls after 1/2 and 3/4 of the epochs.
    'param_scheduler.milestones': [25, 37],
}
settings = {
    'ResNet-20, 2,000 images × 50 epochs': dict(config='configs/cifar/resnet20{arm}_cifar10.py'),
}
kinds = {
    'baseline': '',
    'WAU': '_wau',
    "WAU, authors' code": '_wau_authors',
    'WAU, whole layers': '_wau_layers',
}
# All are compared with the first one, the baseline with the rate of the config. Each has three
# rates, and further ones while the best is the largest or smallest.
tried = {kind: [0.05, 0.025, 0.0125] for kind in kinds}
tried['baseline'] = [0.1, 0.2, *tried['baseline']]
tried['WAU'] += [0.1]
arms = {
    f'{kind}, {rate:g}': dict(config=kinds[kind], options={'optim_wrapper.optimizer.lr': rate})
    for kind, rates in tried.items()
    for rate in rates
}
del kinds, tried
