# WRN-28-10 (1605.07146) with dropout 0.3.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARWideResNet', depth=28, widen_factor=10, dropout=0.3),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=640,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
