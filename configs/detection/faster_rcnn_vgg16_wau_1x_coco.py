# Faster R-CNN VGG-16, 1x, with WAU in the paper's words.
# Its baseline is faster_rcnn_vgg16_1x_coco.py.
_base_ = ['./faster_rcnn_vgg16_1x_coco.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
