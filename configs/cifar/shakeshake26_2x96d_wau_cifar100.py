# WAU as in the paper's words; shakeshake26_2x96d_cifar100.py is its baseline.
_base_ = ['./shakeshake26_2x96d_cifar100.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
