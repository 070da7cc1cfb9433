# The baseline of faster_rcnn_r50_wau_coco.py: MMDetection's own recipe, with the overlap logged.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]
