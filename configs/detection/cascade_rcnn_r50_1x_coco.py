# Cascade R-CNN R-50 FPN, 1x: MMDetection's own recipe, with the overlap logged.
# The baseline of cascade_rcnn_r50_wau_1x_coco.py
# and cascade_rcnn_r50_wau_authors_1x_coco.py.
_base_ = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
