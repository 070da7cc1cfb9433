# WAU as in the paper's words; googlenet_8xb32_in1k.py is its baseline.
_base_ = ['./googlenet_8xb32_in1k.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
