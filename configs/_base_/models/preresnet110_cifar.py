# PreResNet-110 of He et al. (1603.05027): 6n+2 layers of basic blocks, n=18.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='PytorchCVBackbone', family='preresnet_cifar', blocks=110, bottleneck=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
