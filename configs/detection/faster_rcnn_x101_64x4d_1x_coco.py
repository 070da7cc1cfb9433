# Faster R-CNN X-101-64x4d FPN, 1x: MMDetection's own recipe, with the overlap logged.
# The baseline of faster_rcnn_x101_64x4d_wau_1x_coco.py
# and faster_rcnn_x101_64x4d_wau_authors_1x_coco.py.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_x101-64x4d_fpn_1x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
