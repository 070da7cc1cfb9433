# Mask R-CNN R-50 FPN, 1x, with WAU in the paper's words.
# Its baseline is mask_rcnn_r50_1x_coco.py.
_base_ = './mask_rcnn_r50_1x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
custom_hooks = [dict(type='WAUHook')]
