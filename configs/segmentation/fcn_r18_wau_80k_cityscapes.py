# FCN R-18 on Cityscapes, 80,000 updates, with WAU in the paper's words.
# Its baseline is fcn_r18_80k_cityscapes.py.
_base_ = ['./fcn_r18_80k_cityscapes.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
