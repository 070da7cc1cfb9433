# Cascade R-CNN R-50 FPN, 1x, with WAU as in its authors' code.
# Its baseline is cascade_rcnn_r50_1x_coco.py.
_base_ = ['./cascade_rcnn_r50_1x_coco.py', '../_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
