# Faster R-CNN X-101-32x4d FPN, 2x: MMDetection's own recipe, with the overlap logged.
# The baseline of faster_rcnn_x101_32x4d_wau_2x_coco.py
# and faster_rcnn_x101_32x4d_wau_authors_2x_coco.py.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_x101-32x4d_fpn_2x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
