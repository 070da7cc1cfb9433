# ResNet-50 on ImageNet, the baseline of resnet50_wau_8xb32_in1k_new_style.py. MMPreTrain's recipe
# is written out in _base_, since installed packages of MMPreTrain lack its new-style configs.
from mmengine.config import read_base

from mmwau import OverlapHook

with read_base():
    from ._base_.classification_runtime import *
    from ._base_.datasets.imagenet_bs32 import *
    from ._base_.models.resnet50 import *
    from ._base_.schedules.imagenet_bs256 import *

custom_hooks = [dict(type=OverlapHook)]
