# Faster R-CNN X-101-64x4d FPN, 1x, with WAU as in its authors' code.
# Its baseline is faster_rcnn_x101_64x4d_1x_coco.py.
_base_ = ['./faster_rcnn_x101_64x4d_1x_coco.py', '../_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
