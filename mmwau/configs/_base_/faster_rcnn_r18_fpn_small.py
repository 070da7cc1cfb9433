# A small Faster R-CNN R18-FPN for small images, trained from scratch with AdamW: what two CPU
# cores can carry. A config built on it brings its data, number of classes and epochs.
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from mmengine.runner import TestLoop, ValLoop
from torch.optim import AdamW

with read_base():
    from .detection_runtime import *
    from .models.faster_rcnn_r50_fpn import *

model.merge(
    dict(
        backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
        neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
        rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=1)),
            bbox_head=dict(in_channels=64, fc_out_channels=256),
        ),
        train_cfg=dict(
            rpn=dict(sampler=dict(num=128)),
            rpn_proposal=dict(nms_pre=500, max_per_img=200),
            rcnn=dict(sampler=dict(num=64)),
        ),
        test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
    )
)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
# Two checkpoints: MMEngine removes the oldest one before it writes the next.
default_hooks.merge(dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=2)))
randomness = dict(seed=0)
