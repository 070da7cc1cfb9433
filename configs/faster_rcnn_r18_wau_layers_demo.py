# The demo with WAU by whole layers; faster_rcnn_r18_demo.py is its baseline.
_base_ = './faster_rcnn_r18_demo.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5, axis='layer', hold='state')
custom_hooks = [dict(type='WAUHook', overlap_interval=50)]
