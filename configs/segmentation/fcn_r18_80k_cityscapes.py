# FCN R-18 on Cityscapes, 80,000 updates: MMSegmentation's own recipe, with the
# overlap logged. The baseline of fcn_r18_wau_80k_cityscapes.py.
_base_ = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
