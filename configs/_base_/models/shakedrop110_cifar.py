# ResNet-110 of basic blocks with ShakeDrop (1802.02375): 6n+2 layers, n=18. A block survives with a
# probability that falls from 1 to 0.5 along the network, as in the paper.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='PytorchCVBackbone', family='shakedropresnet_cifar', blocks=110, bottleneck=False
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
