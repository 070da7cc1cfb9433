# RetinaNet R-50 FPN, 1x, with WAU in the paper's words.
# Its baseline is retinanet_r50_1x_coco.py.
_base_ = ['./retinanet_r50_1x_coco.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
