# Top-down heatmaps with ResNet-50, on the keypoints of COCO, with WAU in the paper's words.
# Its baseline is td_hm_r50_keypoints.py.
_base_ = ['./td_hm_r50_keypoints.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [*_base_.custom_hooks[:-1], dict(type='WAUHook')]
