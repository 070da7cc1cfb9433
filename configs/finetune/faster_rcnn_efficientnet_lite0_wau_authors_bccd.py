# BCCD blood cells, fine-tuned with WAU as in its authors' code.
# Its baseline: faster_rcnn_efficientnet_lite0_bccd.py
_base_ = ['./faster_rcnn_efficientnet_lite0_bccd.py', '../_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook', overlap_interval=50)]
