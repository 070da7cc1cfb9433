# 120 photographs of raccoons, fine-tuned with WAU.
# Its baseline: faster_rcnn_efficientnet_lite0_raccoon.py
_base_ = ['./faster_rcnn_efficientnet_lite0_raccoon.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook', overlap_interval=50)]
