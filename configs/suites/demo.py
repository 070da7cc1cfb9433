# The demo's shapes with and without WAU. `make demo` trains the first seed of both arms.
title = 'Drawn shapes'
metric = 'coco/bbox_mAP'
other_metrics = ['coco/bbox_mAP_50']
seeds = [0, 1, 2]
options = {
    'train_cfg.val_interval': 1,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'custom_hooks.0.movement': True,
}
settings = {'Faster R-CNN R18-FPN': dict(config='configs/faster_rcnn_r18{arm}_demo.py')}
arms = {'baseline': dict(), 'WAU': dict(config='_wau')}
