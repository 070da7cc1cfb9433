# Faster R-CNN R-50 C4, 1x, with WAU as in its authors' code.
# Its baseline is faster_rcnn_r50_c4_1x_coco.py.
_base_ = ['./faster_rcnn_r50_c4_1x_coco.py', '../_base_/wau/authors.py']

optim_wrapper = dict(
    **_base_.pop('wau'),
    # There is no neck, and the last stage of the ResNet-50 is the head that all regions share. So
    # the same convolutions of the network are held as with FPN.
    targets=('backbone', 'roi_head.shared_head'),
)
custom_hooks = [dict(type='WAUHook')]
