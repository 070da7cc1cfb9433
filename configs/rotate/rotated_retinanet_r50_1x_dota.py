# Rotated RetinaNet R-50 FPN, 1x: MMRotate's own recipe, with the
# overlap logged. The baseline of rotated_retinanet_r50_wau_1x_dota.py.
_base_ = 'mmrotate::rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
