# The small FCN R-18 on the demo's shapes with WAU; fcn_r18_shapes.py is its baseline.
_base_ = ['./fcn_r18_shapes.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook', overlap_interval=50)]
