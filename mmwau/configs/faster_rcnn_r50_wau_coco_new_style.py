# Faster R-CNN R50-FPN on COCO with WAU; faster_rcnn_r50_coco_new_style.py is its baseline.
from mmengine.config import read_base

from mmwau import WAUHook, WAUOptimWrapper

with read_base():
    from .faster_rcnn_r50_coco_new_style import *

optim_wrapper.update(dict(type=WAUOptimWrapper, update_ratio=0.5))
custom_hooks = [dict(type=WAUHook)]
