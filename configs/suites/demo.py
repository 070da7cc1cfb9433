# The demo's shapes with and without WAU: python tools/make_demo_data.py, then this.
title = 'Drawn shapes'
metric = 'coco/bbox_mAP'
other_metrics = ['coco/bbox_mAP_50']
seeds = [0, 1, 2]
options = {'custom_hooks.0.movement': True}
settings = {'Faster R-CNN R18-FPN': dict(config='configs/faster_rcnn_r18{arm}_demo.py')}
arms = {'baseline': dict(), 'WAU': dict(config='_wau')}
