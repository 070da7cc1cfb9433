# GoogLeNet (1409.4842) on ImageNet; the baseline of googlenet_{wau,wau_authors}_8xb32_in1k.py. The
# recipe is MMPreTrain's for ResNet-50: the paper gives no learning rate and no number of epochs.
_base_ = './resnet50_8xb32_in1k.py'

model = dict(backbone=dict(_delete_=True, type='GoogLeNet'), head=dict(in_channels=1024))
