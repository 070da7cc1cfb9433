# 1800 epochs of SGD, the learning rate falling from 0.2 to 0 as a cosine, in each iteration: the
# paper on shake-shake (1705.07485) and its code (github.com/xgastaldi/shake-shake).
_base_ = './cifar_164e.py'

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4, nesterov=True)
)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', by_epoch=True, T_max=1800, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=1800)
