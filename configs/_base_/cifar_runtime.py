# MMPreTrain's runtime; mmwau, which has the backbones; and the overlap of the filters in the log.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
# Two checkpoints: MMEngine removes the oldest one before it writes the next.
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
