# WAU as in the paper's words; resnet50_8xb32_in1k_new_style.py is its baseline.
from mmengine.config import read_base

from mmwau import WAUHook, WAUOptimWrapper

with read_base():
    from .resnet50_8xb32_in1k_new_style import *

optim_wrapper.update(dict(type=WAUOptimWrapper, update_ratio=0.5))
custom_hooks = [dict(type=WAUHook)]
