# The demo with WAU; faster_rcnn_r18_demo.py is its baseline.
_base_ = ['./faster_rcnn_r18_demo.py', './_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook', overlap_interval=50)]
