# WAU by whole layers; resnet20_cifar10.py is its baseline.
_base_ = './resnet20_cifar10.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5, axis='layer', hold='state')
custom_hooks = [dict(type='WAUHook')]
