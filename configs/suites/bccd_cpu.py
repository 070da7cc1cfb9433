# BCCD blood cells on two CPU cores: Faster R-CNN R18-FPN from scratch.
title = 'BCCD blood cells on two CPU cores'
metric = 'coco/bbox_mAP'
other_metrics = ['coco/bbox_mAP_50']
seeds = [0, 1, 2]
options = {
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'custom_hooks.0.movement': True,
}
settings = {
    'Faster R-CNN R18-FPN from scratch, 12 epochs': dict(
        config='configs/faster_rcnn_r18{arm}_bccd.py'
    ),
}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
    "WAU, hold='state'": dict(config='_wau', options={'optim_wrapper.hold': 'state'}),
    'baseline, learning rate × 0.5': dict(options={'optim_wrapper.optimizer.lr': 0.0005}),
    'WAU, rescale': dict(config='_wau', options={'optim_wrapper.rescale': True}),
}
