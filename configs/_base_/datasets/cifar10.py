# CIFAR-10 as the authors' code trains on it: batch 128, padding by 4 with a random crop, flips.
# The data, mean and standard deviation are MMPreTrain's, which are those of that code.
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=100)
test_dataloader = dict(batch_size=100)
