# ResNet-20 with AdaGrad; the baseline of resnet20_{wau,wau_authors}_adagrad_cifar10.py.
# Learning rate and weight decay are ours, not those of the authors of WAU.
_base_ = './resnet20_cifar10.py'

optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adagrad', lr=1e-2, weight_decay=1e-4))
