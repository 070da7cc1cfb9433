# ResNet-20 of He et al. (1512.03385) for CIFAR: 6n+2 layers of basic blocks, n=3.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='PytorchCVBackbone', family='resnet_cifar', blocks=20, bottleneck=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
