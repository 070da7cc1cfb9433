# The inception blocks of GoogLeNet (1409.4842) with batch norm, after one convolution of 3x3.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARGoogLeNet'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=1024,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
