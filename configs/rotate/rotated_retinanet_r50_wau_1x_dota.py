# Rotated RetinaNet R-50 FPN, 1x, with WAU in the paper's words.
# Its baseline is rotated_retinanet_r50_1x_dota.py.
_base_ = ['./rotated_retinanet_r50_1x_dota.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
