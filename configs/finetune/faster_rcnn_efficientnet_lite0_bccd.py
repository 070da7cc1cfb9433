# BCCD blood cells, fine-tuned: the baseline of the configs with WAU beside it.
_base_ = '../_base_/faster_rcnn_efficientnet_lite0_finetune.py'

data_root = 'data/bccd/'
source = dict(data_root=data_root, metainfo=dict(classes=('RBC', 'WBC', 'Platelets')))
model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))

train_dataloader = dict(
    dataset=dict(ann_file='annotations/fit.json', data_prefix=dict(img='train/'), **source)
)
val_dataloader = dict(
    dataset=dict(ann_file='annotations/tune.json', data_prefix=dict(img='train/'), **source)
)
test_dataloader = dict(
    dataset=dict(ann_file='annotations/val.json', data_prefix=dict(img='val/'), **source)
)
val_evaluator = dict(ann_file=data_root + 'annotations/tune.json')
test_evaluator = dict(ann_file=data_root + 'annotations/val.json')
