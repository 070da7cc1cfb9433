# WAU in the second way of its authors' code, by whole layers; resnet20_cifar10.py is its baseline.
_base_ = './resnet20_cifar10.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(
    type='WAUOptimWrapper',
    update_ratio=0.5,
    axis='layer',
    sampler='with_replacement',
    hold='state',
    min_active=0,
)
custom_hooks = [dict(type='WAUHook')]
