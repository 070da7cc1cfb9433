# AlexNet for CIFAR: five convolutions, and one linear layer from 256.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CIFARAlexNet'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=256,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
