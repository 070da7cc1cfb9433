# A narrow VGG19-BN to remove filters from (docs/results/pruning.md), beside ResNet-20 of
# cifar10_long.py and the detector of bccd_cpu.py. Its data are those of cifar10_cpu.py.
_base_ = './cifar10_long.py'

title = 'VGG19-BN, a quarter as wide'
seeds = [0, 1, 2]
options = {
    'custom_hooks.0.movement': False,
    'train_dataloader.dataset.indices': 5000,
    'train_dataloader.batch_size': 32,
    # The recipe's for a batch a quarter as large.
    'optim_wrapper.optimizer.lr': 0.025,
    'train_cfg.max_epochs': 20,
    'param_scheduler.milestones': [10, 15],
    'default_hooks.checkpoint.max_keep_ckpts': 1,
}
settings = dict(
    _delete_=True,
    **{
        'VGG19-BN, 5,000 images × 20 epochs': dict(
            config='configs/cifar/vgg19bn{arm}_cifar10.py',
            options={
                'model.backbone.type': 'NarrowVGG',
                'model.backbone.width': 0.25,
                'model.head.in_channels': 128,
            },
        ),
    },
)
arms = {
    '_delete_': True,
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    'baseline, learning rate × 0.5': dict(options={'optim_wrapper.optimizer.lr': 0.0125}),
}
