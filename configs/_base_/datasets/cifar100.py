# CIFAR-100 as the authors' code trains on it: as CIFAR-10, with its mean and standard deviation.
_base_ = 'mmpretrain::_base_/datasets/cifar100_bs16.py'

data_preprocessor = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255])
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=100)
test_dataloader = dict(batch_size=100)
