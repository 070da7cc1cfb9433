# Faster R-CNN VGG-16, 1x, with WAU in the paper's words.
# Its baseline is faster_rcnn_vgg16_1x_coco.py.
_base_ = './faster_rcnn_vgg16_1x_coco.py'

custom_imports = dict(imports=['mmpretrain.models', 'mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
custom_hooks = [dict(type='WAUHook')]
