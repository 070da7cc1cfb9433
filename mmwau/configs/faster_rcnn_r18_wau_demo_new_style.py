# The demo with WAU; faster_rcnn_r18_demo_new_style.py is its baseline.
from mmengine.config import read_base

from mmwau import WAUHook, WAUOptimWrapper

with read_base():
    from .faster_rcnn_r18_demo_new_style import *

optim_wrapper.update(dict(type=WAUOptimWrapper, update_ratio=0.5))
custom_hooks = [dict(type=WAUHook, overlap_interval=50)]
