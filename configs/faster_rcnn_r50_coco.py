# The plain twin of faster_rcnn_r50_wau_coco.py: MMDetection's own recipe.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
