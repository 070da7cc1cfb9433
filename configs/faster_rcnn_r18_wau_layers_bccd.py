# BCCD blood cells with WAU by whole layers; faster_rcnn_r18_bccd.py is its baseline.
_base_ = ['./faster_rcnn_r18_bccd.py', './_base_/wau/layers.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook', overlap_interval=50)]
