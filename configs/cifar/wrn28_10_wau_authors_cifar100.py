# WAU as in its authors' code; wrn28_10_cifar100.py is its baseline.
_base_ = './wrn28_10_cifar100.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(
    type='WAUOptimWrapper', update_ratio=0.5, axis='in', sampler='with_replacement', min_active=0
)
custom_hooks = [dict(type='WAUHook')]
