# ResNet-50 on ImageNet: MMPreTrain's own recipe, with the overlap logged; the baseline of
# resnet50_{wau,wau_authors}_8xb32_in1k.py.
_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
