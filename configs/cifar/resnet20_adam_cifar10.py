# ResNet-20 with Adam; the baseline of resnet20_{wau,wau_authors}_adam_cifar10.py.
# Learning rate and weight decay are ours, not those of the authors of WAU.
_base_ = './resnet20_cifar10.py'

optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=1e-3, weight_decay=1e-4))
