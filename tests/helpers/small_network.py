"""A network for tests of the benchmark, which look at no time."""

import torch
from torch import nn

from mmwau.benchmark.networks import Network


def small_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 256, 3, bias=False))
    x = torch.randn(2, 3, 8, 8)
    return Network(model, lambda model: model(x).square().mean(), ('',), 'small', ('0',))
