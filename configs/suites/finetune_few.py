# Fine-tuning with 24 images: the comparison of finetune.py, at equal epochs. Not to be trained yet:
# the learning rates are to be those that finetune_few_rates.py chooses, which says how to get the
# images.
_base_ = './finetune.py'

title = 'Fine-tuning with 24 images'
options = {
    'train_cfg.max_epochs': 20,
    'param_scheduler.1.T_max': 20,
    'train_cfg.val_interval': 4,
}
settings = {
    name: dict(options={'train_dataloader.dataset.ann_file': 'annotations/few.json'})
    for name in ('Raccoons', 'Playing cards', 'BCCD blood cells')
}
rates = {
    'baseline': 0.0005,
    'WAU': 0.0005,
    "WAU, authors' code": 0.0005,
    'WAU, rescale': 0.0005,
    'WAU, whole layers': 0.0005,
    'WAU, whole layers, 0.5 to 1': 0.0005,
    'WAU, whole layers, 0.75': 0.0005,
}
arms = {
    kind: dict(
        _base_.arms[kind],
        options={**_base_.arms[kind].options, 'optim_wrapper.optimizer.lr': rate},
    )
    for kind, rate in rates.items()
}
arms['WAU, whole layers, 0.5 to 1']['options']['custom_hooks.0.ratio_schedule.end'] = 20
arms['_delete_'] = True
del rates
