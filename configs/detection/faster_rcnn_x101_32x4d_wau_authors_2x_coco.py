# Faster R-CNN X-101-32x4d FPN, 2x, with WAU as in its authors' code.
# Its baseline is faster_rcnn_x101_32x4d_2x_coco.py.
_base_ = ['./faster_rcnn_x101_32x4d_2x_coco.py', '../_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
