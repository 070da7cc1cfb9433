# 300 epochs of SGD, the learning rate divided by 10 after 150 and 225: the code of the paper on
# ShakeDrop (github.com/imenurok/ShakeDrop) within fb.resnet.torch, whose other settings are these.
# That code's learning rate of 0.5 is for PyramidNet.
_base_ = './cifar_300e.py'

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4, nesterov=True))
