# RetinaNet R-50 FPN, 1x: MMDetection's own recipe, with the overlap logged.
# The baseline of retinanet_r50_wau_1x_coco.py
# and retinanet_r50_wau_authors_1x_coco.py.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
