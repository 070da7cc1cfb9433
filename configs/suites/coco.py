# Faster R-CNN on COCO, MMDetection's 1x and 2x recipes for 8 GPUs.
title = 'Faster R-CNN on COCO'
metric = 'coco/bbox_mAP'
other_metrics = ['coco/bbox_mAP_50']
seeds = [0, 1, 2]
processes = 8
options = {
    'custom_hooks.0.movement': True,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
}
settings = {
    'R-50-FPN 1x': dict(config='configs/faster_rcnn_r50{arm}_coco.py'),
    'R-50-FPN 2x': dict(config='configs/detection/faster_rcnn_r50{arm}_2x_coco.py'),
    'R-101-FPN 1x': dict(config='configs/detection/faster_rcnn_r101{arm}_1x_coco.py'),
    'R-101-FPN 2x': dict(config='configs/detection/faster_rcnn_r101{arm}_2x_coco.py'),
    'X-101-32x4d-FPN 1x': dict(config='configs/detection/faster_rcnn_x101_32x4d{arm}_1x_coco.py'),
    'X-101-32x4d-FPN 2x': dict(config='configs/detection/faster_rcnn_x101_32x4d{arm}_2x_coco.py'),
    'X-101-64x4d-FPN 1x': dict(config='configs/detection/faster_rcnn_x101_64x4d{arm}_1x_coco.py'),
    'X-101-64x4d-FPN 2x': dict(config='configs/detection/faster_rcnn_x101_64x4d{arm}_2x_coco.py'),
}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    "WAU, authors' code": dict(config='_wau_authors'),
}
