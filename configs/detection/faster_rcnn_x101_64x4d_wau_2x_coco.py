# Faster R-CNN X-101-64x4d FPN, 2x, with WAU in the paper's words.
# Its baseline is faster_rcnn_x101_64x4d_2x_coco.py.
_base_ = ['./faster_rcnn_x101_64x4d_2x_coco.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
