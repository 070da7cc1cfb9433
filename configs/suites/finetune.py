# Fine-tuning: the comparison of docs/finetune_protocol.md, on the images to report on. Not to be
# trained yet: the learning rates are to be those that finetune_rates.py chooses, and the epochs at
# equal time are to follow from measured steps. Until then all have a rate of 0.0005.
title = 'Fine-tuning'
metric = 'coco/bbox_mAP'
other_metrics = ['coco/bbox_mAP_50']
seeds = [0, 1, 2, 3, 4]
options = {
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
    'train_dataloader.dataset.pipeline.2.scale': (240, 180),
    'val_dataloader.dataset.pipeline.1.scale': (240, 180),
    'train_cfg.max_epochs': 8,
    'param_scheduler.1.T_max': 8,
    'train_cfg.val_interval': 1,
    'custom_hooks.0.movement': True,
}
recipe = 'configs/finetune/faster_rcnn_efficientnet_lite0{arm}'
settings = {
    name: dict(
        config=f'{recipe}_{data}.py',
        options={
            'val_dataloader.dataset.ann_file': f'annotations/{part}.json',
            'val_dataloader.dataset.data_prefix.img': f'{part}/',
            'val_evaluator.ann_file': f'data/{data}/annotations/{part}.json',
        },
    )
    for name, data, part in (
        ('Raccoons', 'raccoon', 'test'),
        ('Playing cards', 'cards', 'test'),
        ('BCCD blood cells', 'bccd', 'val'),
    )
}
growing = {
    'custom_hooks.0.ratio_schedule.type': 'linear',
    'custom_hooks.0.ratio_schedule.start': 0.5,
    'custom_hooks.0.ratio_schedule.stop': 1.0,
    'custom_hooks.0.ratio_schedule.end': 8,
}
three_quarters = {'optim_wrapper.update_ratio': 0.75}
rate = 'optim_wrapper.optimizer.lr'
arms = {
    'baseline': dict(options={rate: 0.0005}),
    'WAU': dict(config='_wau', options={rate: 0.0005}),
    "WAU, authors' code": dict(config='_wau_authors', options={rate: 0.0005}),
    'WAU, rescale': dict(config='_wau', options={rate: 0.0005, 'optim_wrapper.rescale': True}),
    'WAU, whole layers': dict(config='_wau_layers', options={rate: 0.0005}),
    'WAU, whole layers, 0.5 to 1': dict(config='_wau_layers', options={rate: 0.0005, **growing}),
    'WAU, whole layers, 0.75': dict(config='_wau_layers', options={rate: 0.0005, **three_quarters}),
}
# At equal processor time.
for kind, epochs in (
    ('WAU, whole layers', 10),
    ('WAU, whole layers, 0.5 to 1', 9),
    ('WAU, whole layers, 0.75', 9),
):
    longer = {'train_cfg.max_epochs': epochs, 'param_scheduler.1.T_max': epochs}
    if '0.5 to 1' in kind:
        longer['custom_hooks.0.ratio_schedule.end'] = epochs
    arms[f'{kind}, equal time'] = dict(arms[kind], options={**arms[kind]['options'], **longer})
del recipe, growing, three_quarters, rate, kind, epochs, longer
