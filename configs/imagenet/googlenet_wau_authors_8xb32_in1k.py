# WAU as in its authors' code; googlenet_8xb32_in1k.py is its baseline.
_base_ = ['./googlenet_8xb32_in1k.py', '../_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
