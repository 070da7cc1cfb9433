# DenseNet-BC (1608.06993) of 40 layers with growth rate 12.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='PytorchCVBackbone',
        family='densenet_cifar',
        blocks=40,
        growth_rate=12,
        bottleneck=True,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=132,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
