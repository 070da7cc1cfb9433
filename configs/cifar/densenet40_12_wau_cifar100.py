# WAU as in the paper's words; densenet40_12_cifar100.py is its baseline.
_base_ = './densenet40_12_cifar100.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
custom_hooks = [dict(type='WAUHook')]
