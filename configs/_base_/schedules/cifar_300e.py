# 300 epochs, the learning rate divided by 10 after 150 and 225: the authors' code for ResNeXt and
# DenseNet.
_base_ = './cifar_164e.py'

param_scheduler = dict(milestones=[150, 225])
train_cfg = dict(max_epochs=300)
