import pytest
import torch
from torch import nn

from mmwau import WAU, find_layers


class Master(torch.optim.Optimizer):
    """Makes its steps on a copy in single precision, and writes the weight from it."""

    def __init__(self, params, lr=0.5):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                if param.grad is None:
                    continue
                master = self.state[param].setdefault('master', param.float().clone())
                master.sub_(param.grad.float(), alpha=group['lr'])
                param.copy_(master)


class Momentum(Master):
    """Has a state in single precision that is no copy."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                zeros = torch.zeros(param.shape)
                buffer = self.state[param].setdefault('buffer', zeros)
                param.sub_(buffer.mul_(0.9).add_(param.grad.float()), alpha=group['lr'])


def convolution(dtype=torch.bfloat16):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3).to(dtype)
    for param in conv.parameters():
        param.grad = torch.full_like(param, 2**-4)
    return conv


RULES = [
    dict(hold='weight'),
    dict(hold='weight', rescale=True),
    dict(hold='state', rescale=True),
    dict(hold='grad', rescale=True),
]
WORDS = (
    r"Master writes it anew from a copy in its state \(master\).*hold='state' with rescale=False"
)


@pytest.mark.parametrize('axis', ['out', 'in', 'layer'])
@pytest.mark.parametrize('rule', RULES)
def test_an_optimizer_that_writes_weights_from_a_copy_is_refused(rule, axis):
    conv, other = convolution(), convolution()
    model = nn.Sequential(conv, other)
    layers, wau = find_layers(model, axis=axis), WAU(0.5, **rule)
    optimizer = Master(model.parameters())
    wau.check_optimizer(optimizer, layers)  # there is no copy yet
    active = wau.select(layers, 0)
    before = [param.detach().clone() for param in model.parameters()]
    with pytest.raises(ValueError, match=WORDS), wau.holding(optimizer, layers, active):
        optimizer.step()
    if rule['hold'] == 'weight':
        for layer, mask in zip(layers.values(), active, strict=True):
            for param, dim in layer.tensors:
                start = next(
                    s for s, p in zip(before, model.parameters(), strict=True) if p is param
                )
                held = torch.arange(layer.num_slices)[~mask]
                rows = (
                    one if layer.is_whole else one.index_select(dim, held) for one in (param, start)
                )
                assert (layer.is_whole and mask) or torch.equal(*rows)
    plain = Master(model.parameters())
    plain.step()
    with pytest.raises(ValueError, match=WORDS):
        wau.check_optimizer(plain, layers)


def test_what_the_message_names_makes_each_step_once():
    conv = convolution()
    optimizer, layers, wau = Master(conv.parameters()), find_layers(conv), WAU(0.25, hold='state')
    wau.check_optimizer(optimizer, layers)
    start, steps = conv.weight.detach().float(), torch.zeros(8)
    for update in range(8):
        conv.weight.grad, conv.bias.grad = (torch.full_like(p, 2**-4) for p in conv.parameters())
        active = wau.select(layers, update)
        steps += active[0]
        with wau.holding(optimizer, layers, active):
            optimizer.step()
    moved = (start - conv.weight.float()).mean(dim=(1, 2, 3)) / 2**-5
    torch.testing.assert_close(moved, steps, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ('make', 'dtype'),
    [
        (Momentum, torch.bfloat16),
        (Master, torch.float32),  # a copy in the same precision, as that of schedule-free ones
        (lambda params: torch.optim.Adam(params), torch.bfloat16),
    ],
)
@pytest.mark.parametrize('rule', RULES[:2])
def test_other_states_are_no_copies(rule, make, dtype):
    conv = convolution(dtype)
    optimizer, layers, wau = make(conv.parameters()), find_layers(conv), WAU(**rule)
    for update in range(2):
        with wau.holding(optimizer, layers, wau.select(layers, update)):
            optimizer.step()
        wau.check_optimizer(optimizer, layers)


def test_a_momentum_of_zeros_is_no_copy_of_a_weight_of_zeros():
    conv = convolution()
    nn.init.zeros_(conv.bias)
    conv.bias.grad.zero_()
    optimizer, layers = Momentum(conv.parameters()), find_layers(conv)
    with WAU().holding(optimizer, layers, WAU().select(layers, 0)):
        optimizer.step()
    assert not optimizer.state[conv.bias]['buffer'].any()


def test_a_copy_that_only_starts_at_the_weight_is_none():
    """It is equal to the weight where a step is too small to move 16 bits, as in a warm-up."""

    class Anchored(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, dict(lr=1e-7))

        @torch.no_grad()
        def step(self):
            for param in self.param_groups[0]['params']:
                anchor = self.state[param].setdefault('anchor', param.float().clone())
                param.sub_(param.grad + 0.1 * (param - anchor), alpha=self.param_groups[0]['lr'])

    conv = convolution()
    optimizer, layers, wau = Anchored(conv.parameters()), find_layers(conv), WAU()
    before = conv.weight.detach().clone()
    with wau.holding(optimizer, layers, wau.select(layers, 0)):
        optimizer.step()
    assert torch.equal(conv.weight, before)
    wau.check_optimizer(optimizer, layers)
