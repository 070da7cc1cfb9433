# Faster R-CNN R-50 FPN, 2x: MMDetection's own recipe, with the overlap logged.
# The baseline of faster_rcnn_r50_wau_2x_coco.py
# and faster_rcnn_r50_wau_authors_2x_coco.py.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_2x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
