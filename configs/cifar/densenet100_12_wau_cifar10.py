# WAU as in the paper's words; densenet100_12_cifar10.py is its baseline.
_base_ = './densenet100_12_cifar10.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
custom_hooks = [dict(type='WAUHook')]
