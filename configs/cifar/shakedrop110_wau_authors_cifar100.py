# WAU as in its authors' code; shakedrop110_cifar100.py is its baseline.
_base_ = ['./shakedrop110_cifar100.py', '../_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
