# The baseline of faster_rcnn_r18_wau_bccd.py: BCCD blood cells at 320x240, from scratch.
_base_ = ['./_base_/faster_rcnn_r18_fpn_small.py', './_base_/datasets/detection_320x240.py']

data_root = 'data/bccd/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))

model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))

train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = val_evaluator

# The same curves as with WAU.
custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
custom_hooks = [dict(type='OverlapHook', overlap_interval=50)]
