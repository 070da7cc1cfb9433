# The baseline of faster_rcnn_r50_wau_coco_new_style.py. MMDetection's recipe is written out in
# _base_, since installed packages of MMDetection come without its new-style configs.
from mmengine.config import read_base

from mmwau import OverlapHook

with read_base():
    from ._base_.datasets.coco_detection import *
    from ._base_.detection_runtime import *
    from ._base_.models.faster_rcnn_r50_fpn import *
    from ._base_.schedules.schedule_1x import *

custom_hooks = [dict(type=OverlapHook)]
