# ResNet-20 with a long schedule, 6,250 updates, on the test images, with the learning rates that
# cifar10_long_rates.py chooses. Not to be trained yet: the authors' code and whole layers, which
# have that of the recipe until theirs are chosen. Its data are those of cifar10_cpu.py.
_base_ = './cifar10_long_rates.py'

title = 'ResNet-20, long schedule'
seeds = [0, 1, 2, 3, 4]
options = {
    'val_dataloader.dataset.split': 'test',
    'val_dataloader.dataset.indices': None,
    'custom_hooks.0.movement': True,
    'train_cfg.val_interval': 5,
}
arms = dict(
    _delete_=True,
    **{
        'baseline': dict(options={'optim_wrapper.optimizer.lr': 0.025}),
        'WAU': dict(config='_wau', options={'optim_wrapper.optimizer.lr': 0.05}),
        "WAU, authors' code": dict(
            config='_wau_authors', options={'optim_wrapper.optimizer.lr': 0.1}
        ),
        'WAU, whole layers': dict(
            config='_wau_layers', options={'optim_wrapper.optimizer.lr': 0.1}
        ),
    },
)
