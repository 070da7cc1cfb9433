# 236 photographs of playing cards, fine-tuned: the baseline of the configs with WAU beside it.
_base_ = '../_base_/faster_rcnn_efficientnet_lite0_finetune.py'

data_root = 'data/cards/'
source = dict(
    data_root=data_root, metainfo=dict(classes=('ace', 'jack', 'king', 'nine', 'queen', 'ten'))
)
model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))

train_dataloader = dict(
    dataset=dict(ann_file='annotations/train.json', data_prefix=dict(img='train/'), **source)
)
val_dataloader = dict(
    dataset=dict(ann_file='annotations/val.json', data_prefix=dict(img='val/'), **source)
)
test_dataloader = dict(
    dataset=dict(ann_file='annotations/test.json', data_prefix=dict(img='test/'), **source)
)
val_evaluator = dict(ann_file=data_root + 'annotations/val.json')
test_evaluator = dict(ann_file=data_root + 'annotations/test.json')
