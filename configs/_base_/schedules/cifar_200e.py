# 200 epochs, the learning rate times 0.2 after 60, 120 and 160: the authors' code for WRN.
_base_ = './cifar_164e.py'

param_scheduler = dict(milestones=[60, 120, 160], gamma=0.2)
train_cfg = dict(max_epochs=200)
