# WAU as in the paper's words, of a born-again network; resnet20_born_again_cifar10.py is its
# baseline, with the same teacher.
_base_ = ['./resnet20_born_again_cifar10.py', '../_base_/wau/paper.py']

optim_wrapper = _base_.pop('wau')
custom_hooks = [dict(type='WAUHook'), _base_.custom_hooks[1]]
