# Fine-tuning: the learning rate of each arm, chosen on the images to choose on. The protocol is in
# docs/finetune_protocol.md; the seed is none of those of the comparison. The images to train on are
# 120 of each data set:
#   python tools/dataset_converters/split_coco.py data/cards/annotations/train.json fit=120
#   python tools/dataset_converters/split_coco.py data/bccd/annotations/train.json fit=120 tune=40
# (raccoons are 120 as they are).
title = 'Fine-tuning: learning rates'
metric = 'coco/bbox_mAP'
other_metrics = ['coco/bbox_mAP_50']
seeds = [100]
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
    'train_cfg.val_interval': 8,
}
recipe = 'configs/finetune/faster_rcnn_efficientnet_lite0{arm}'
settings = {
    'Raccoons': dict(config=recipe + '_raccoon.py'),
    'Playing cards': dict(
        config=recipe + '_cards.py',
        options={'train_dataloader.dataset.ann_file': 'annotations/fit.json'},
    ),
    'BCCD blood cells': dict(config=recipe + '_bccd.py'),
}
growing = {
    'custom_hooks.0.ratio_schedule.type': 'linear',
    'custom_hooks.0.ratio_schedule.start': 0.5,
    'custom_hooks.0.ratio_schedule.stop': 1.0,
    'custom_hooks.0.ratio_schedule.end': 8,
}
kinds = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
    'WAU, rescale': dict(config='_wau', options={'optim_wrapper.rescale': True}),
    'WAU, whole layers': dict(config='_wau_layers'),
    'WAU, whole layers, 0.5 to 1': dict(config='_wau_layers', options=growing),
    'WAU, whole layers, 0.75': dict(
        config='_wau_layers', options={'optim_wrapper.update_ratio': 0.75}
    ),
}
# All are compared with the first one, the baseline with the rate of the config.
rates = (0.001, 0.0005, 0.00025)
# And on in steps of 2 where the largest is the best.
larger = {kind: (0.002,) for kind in kinds if 'layers' in kind or 'code' in kind}
arms = {
    f'{kind}, {rate:g}': dict(
        arm, options={**arm.get('options', {}), 'optim_wrapper.optimizer.lr': rate}
    )
    for kind, arm in kinds.items()
    for rate in (*rates, *larger.get(kind, ()))
}
del recipe, growing, kinds, rates, larger
