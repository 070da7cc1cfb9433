# A small Faster R-CNN to fine-tune: EfficientNet-Lite0 with its ImageNet weights, whose stem and
# first stage are frozen and whose batch norms keep their statistics, as in MMDetection's recipes;
# images of 320x240, AdamW. A config built on it brings its data and number of classes. The weights:
# python tools/model_converters/efficientnet_lite0.py checkpoints/efficientnet_lite0.pth
_base_ = ['./faster_rcnn_r18_fpn_small.py', './datasets/detection_320x240.py']

model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(
        _delete_=True,
        type='TimmEfficientNet',
        model_name='tf_efficientnet_lite0',
        out_indices=(1, 2, 3, 4),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/efficientnet_lite0.pth'),
    ),
    neck=dict(in_channels=[24, 40, 112, 320]),
)

# The backbone, and the same curves as with WAU.
custom_imports = dict(imports=['mmwau', 'mmwau.models'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook', overlap_interval=50)]
