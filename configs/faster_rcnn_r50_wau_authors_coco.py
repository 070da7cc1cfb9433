# Faster R-CNN R50-FPN on COCO with WAU as in its authors' code; faster_rcnn_r50_coco.py is its
# baseline.
_base_ = ['./faster_rcnn_r50_coco.py', './_base_/wau/authors.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook')]
