# WAU as in its authors' code; resnet50_8xb32_in1k.py is its baseline.
_base_ = './resnet50_8xb32_in1k.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(
    type='WAUOptimWrapper', update_ratio=0.5, axis='in', sampler='with_replacement', min_active=0
)
custom_hooks = [dict(type='WAUHook')]
