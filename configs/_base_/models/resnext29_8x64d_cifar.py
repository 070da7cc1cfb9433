# ResNeXt-29, 8x64d (1611.05431): three stages of three blocks, 8 groups of 64 channels, twice as
# many in each further stage.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='PytorchCVBackbone',
        family='resnext_cifar',
        blocks=29,
        cardinality=8,
        bottleneck_width=64,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=1024,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
