# Faster R-CNN R50-FPN on COCO with WAU; faster_rcnn_r50_coco.py is its baseline.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
custom_hooks = [dict(type='WAUHook')]
