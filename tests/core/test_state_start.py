import pytest
import torch
from torch import nn

from mmwau import WAU, attach, find_layers


class EightBits(torch.optim.Optimizer):
    """Momentum in 8 bits, with a scale for each block of 256 elements, where there are many.

    Below 4096 elements it has 32 bits, as those of bitsandbytes have.
    """

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                state = self.state[param]
                if param.numel() < 4096:
                    buffer = state.setdefault('state1', torch.zeros_like(param))
                    param.sub_(buffer.mul_(0.9).add_(param.grad), alpha=group['lr'])
                    continue
                now = param.grad.view(-1, 256)
                if state:
                    now = (
                        now + 0.9 * state['state1'].view(-1, 256) * state['absmax1'][:, None] / 127
                    )
                state['absmax1'] = now.abs().amax(1)
                in_bits = (now / state['absmax1'][:, None] * 127).round().char()
                state['state1'] = in_bits.view(param.shape)
                param.sub_(now.view(param.shape), alpha=group['lr'])


def run_step(conv, optimizer):
    conv(torch.randn(2, conv.in_channels, 8, 8)).square().mean().backward()
    optimizer.step()


WORDS = r"one row for each slice; absmax1 of EightBits has not\. Use hold='weight'"


def test_a_state_that_only_large_parameters_have_is_refused_where_it_is_met():
    small, large = nn.Conv2d(4, 16, 3, bias=False), nn.Conv2d(64, 64, 3, bias=False)
    optimizer = EightBits(small.parameters())
    attach(optimizer, small, hold='state', seed=0)
    run_step(small, optimizer)
    optimizer = EightBits(large.parameters())
    handle = attach(optimizer, large, hold='state', seed=0)
    before = large.weight.detach().clone()
    with pytest.raises(ValueError, match=WORDS):
        run_step(large, optimizer)
    held = ~WAU(hold='state', seed=0).select(handle.layers, 0)[0]
    assert torch.equal(large.weight[held], before[held])
    handle.remove()
    attach(optimizer, large, seed=0)  # hold='weight'
    run_step(large, optimizer)


def test_such_a_state_that_was_there_before_is_refused_before_the_step():
    conv = nn.Conv2d(64, 64, 3, bias=False)
    optimizer, wau, layers = EightBits(conv.parameters()), WAU(hold='state'), find_layers(conv)
    run_step(conv, optimizer)
    with pytest.raises(ValueError, match=WORDS):
        wau.check_optimizer(optimizer, layers)
    before = conv.weight.detach().clone()
    with (
        pytest.raises(ValueError, match=WORDS),
        wau.holding(optimizer, layers, wau.select(layers, 0)),
    ):
        run_step(conv, optimizer)
    assert torch.equal(conv.weight, before)
