# Shake-shake of 26 layers, 2x32d (1705.07485): three stages of four blocks with two branches each,
# 32 channels in the first stage, twice as many in each further one. Coefficients are drawn for
# each image, in the forward and in the backward pass ("Shake-Shake-Image" there).
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='PytorchCVBackbone',
        family='shakeshakeresnet_cifar',
        blocks=26,
        bottleneck=False,
        first_stage_channels=32,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=128,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
