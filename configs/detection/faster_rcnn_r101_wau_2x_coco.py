# Faster R-CNN R-101 FPN, 2x, with WAU in the paper's words.
# Its baseline is faster_rcnn_r101_2x_coco.py.
_base_ = './faster_rcnn_r101_2x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
custom_hooks = [dict(type='WAUHook')]
