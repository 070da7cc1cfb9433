# WAU by whole layers; googlenet_cifar10.py is its baseline.
_base_ = ['./googlenet_cifar10.py', '../_base_/wau/layers.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
