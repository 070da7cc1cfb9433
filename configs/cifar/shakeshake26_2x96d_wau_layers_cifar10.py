# WAU by whole layers; shakeshake26_2x96d_cifar10.py is its baseline.
_base_ = ['./shakeshake26_2x96d_cifar10.py', '../_base_/wau/layers.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
