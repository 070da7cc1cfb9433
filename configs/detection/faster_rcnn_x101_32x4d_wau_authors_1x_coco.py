# Faster R-CNN X-101-32x4d FPN, 1x, with WAU as in its authors' code.
# Its baseline is faster_rcnn_x101_32x4d_1x_coco.py.
_base_ = './faster_rcnn_x101_32x4d_1x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(
    type='WAUOptimWrapper',
    update_ratio=0.5,
    axis='in',
    sampler='with_replacement',
    min_active=0,
)
custom_hooks = [dict(type='WAUHook')]
