# WAU as in its authors' code; resnet56_cifar100.py is its baseline.
_base_ = ['./resnet56_cifar100.py', '../_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
