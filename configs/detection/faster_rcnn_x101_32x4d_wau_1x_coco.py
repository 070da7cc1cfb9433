# Faster R-CNN X-101-32x4d FPN, 1x, with WAU in the paper's words.
# Its baseline is faster_rcnn_x101_32x4d_1x_coco.py.
_base_ = ['./faster_rcnn_x101_32x4d_1x_coco.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
