# WAU as in its authors' code; googlenet_cifar10.py is its baseline.
_base_ = ['./googlenet_cifar10.py', '../_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
