# Faster R-CNN VGG-16, 1x, with the overlap logged.
# The baseline of faster_rcnn_vgg16_wau_1x_coco.py
# and faster_rcnn_vgg16_wau_authors_1x_coco.py.
#
# MMDetection has no such recipe. As in the Faster R-CNN paper (1506.01497), regions are proposed
# and classified on conv5_3 only, at stride 16, and what is below conv3_1 is frozen; with an FPN it
# would be another detector. The VGG-16 is MMPreTrain's, which needs to be installed: MMDetection's
# own (SSDVGG) ends in layers of SSD that would get no gradient here. Anchors, proposals and
# schedule are those of MMDetection's R-50 C4. The two linear layers are the 1024 wide ones of its
# FPN detectors, and start at random: MMDetection can't load the pretrained ones of VGG-16 there.
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py'

custom_imports = dict(imports=['mmpretrain.models', 'mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook')]

model = dict(
    # What the VGG-16 was trained with.
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VGG',
        depth=16,
        out_indices=(4,),
        with_last_pool=False,
        frozen_stages=2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://mmassets.onedl.ai/mmclassification/v0/vgg/vgg16_batch256_imagenet_20210208-db26f1a5.pth',
            prefix='backbone.',
        ),
    ),
    rpn_head=dict(in_channels=512, feat_channels=512),
    roi_head=dict(
        shared_head=None,
        bbox_roi_extractor=dict(roi_layer=dict(output_size=7), out_channels=512),
        bbox_head=dict(type='Shared2FCBBoxHead', with_avg_pool=False, in_channels=512),
    ),
)
# A VGG-16 has no batch norm, and the 0.02 of the ResNets is much for it. With these settings
# github.com/jwyang/faster-rcnn.pytorch trains it on COCO, also with 16 images in a batch.
optim_wrapper = dict(optimizer=dict(lr=0.01), clip_grad=dict(max_norm=10))
# MMPreTrain's VGG freezes its stages when training begins, after the processes have shared out the
# parameters.
find_unused_parameters = True
