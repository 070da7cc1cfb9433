# Faster R-CNN R-50 C4, 1x: MMDetection's own recipe, with the overlap logged.
# The baseline of faster_rcnn_r50_c4_wau_1x_coco.py
# and faster_rcnn_r50_c4_wau_authors_1x_coco.py.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py'

custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
# There is no neck, and the last stage of the ResNet-50 is the head that all regions share.
custom_hooks = [dict(type='OverlapHook', targets=('backbone', 'roi_head.shared_head'))]
