from contextlib import nullcontext

import pytest
import torch
from torch import nn

from mmwau import WAU, find_layers
from mmwau.held import can_step_active_alone
from mmwau.skipping import HeldGradSkipper
from mmwau.slices import Layer, find_slices
from mmwau.wau import HOLDS


class Derived(torch.optim.SGD):
    """May look at a whole parameter, as LARS does."""


@pytest.mark.parametrize(
    ('make', 'alone'),
    [
        (lambda params: torch.optim.SGD(params, lr=0.1), True),
        (torch.optim.AdamW, True),
        (lambda params: Derived(params, lr=0.1), False),
        (torch.optim.Adagrad, False),  # its state starts above zero
        (torch.optim.Rprop, False),  # its step sizes start above zero
        (torch.optim.LBFGS, False),
    ],
)
def test_which_optimizers_step_active_slices_alone(make, alone):
    optimizer = make([nn.Parameter(torch.zeros(2, 2))])
    assert can_step_active_alone(optimizer) is alone


def test_an_optimizer_with_step_hooks_steps_over_everything():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1)
    handle = optimizer.register_step_post_hook(lambda *args: None)
    assert not can_step_active_alone(optimizer)
    handle.remove()
    assert can_step_active_alone(optimizer)


class FromTheWeight(torch.optim.Optimizer):
    """Its state starts as a copy of the weight, as that of schedule-free optimizers does."""

    def __init__(self, params, lr, weight_decay):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                z = self.state[param].setdefault('z', param.clone())
                z.sub_(param.grad + group['weight_decay'] * param, alpha=group['lr'])
                param.lerp_(z, 0.5)


@pytest.mark.parametrize('hold', ['weight', 'state'])
@pytest.mark.parametrize('kind', [Derived, FromTheWeight])
def test_a_state_that_starts_at_the_weight_is_told_where_it_would_be_held(hold, kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.2)
    layers = find_layers(model)
    wau = WAU(hold=hold)
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    told = hold == 'state' and kind is FromTheWeight
    words = r"state starts at zero; 'z' of FromTheWeight .*Use hold='weight'"
    with pytest.raises(ValueError, match=words) if told else nullcontext():  # noqa: SIM117
        with wau.holding(optimizer, layers, wau.select(layers, 0)):
            optimizer.step()


def test_slices_of_each_parameter():
    weights = [nn.Parameter(torch.zeros(size, 2)) for size in (3, 1, 4)]
    bias = nn.Parameter(torch.zeros(3))
    layers = [
        Layer('a', 3, ((weights[0], 0), (bias, 0))),
        Layer('b', 1, ((weights[1], 0),)),
        Layer('c', 4, ((weights[2], 1),)),
    ]
    masks = [[True, False, True], [True], [False, False, True, False]]
    found = find_slices(layers, [torch.tensor(mask) for mask in masks])
    # All slices of b are active, so that nothing of it is held.
    assert [slices.param for slices in found] == [weights[0], bias, weights[2]]
    assert [slices.dim for slices in found] == [0, 0, 1]
    assert [slices.active.tolist() for slices in found] == [[0, 2], [0, 2], [2]]
    assert [slices.held.tolist() for slices in found] == [[1], [1], [0, 1, 3]]
    assert find_slices([], []) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason='asks a GPU whether it has to wait')
@pytest.mark.parametrize('hold', HOLDS)
def test_a_gpu_waits_for_nothing(hold):
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers, full_grads=hold != 'state')
    wau = WAU(hold=hold)
    x = torch.randn(2, 3, 16, 16, device='cuda')
    try:
        for update in range(3):
            torch.cuda.set_sync_debug_mode('error' if update else 'default')
            active = wau.select(layers.values(), update)
            if hold != 'weight':
                skipper.start(active)
            model(x).square().mean().backward()
            skipper.stop()
            grads = None if hold == 'weight' else skipper.grads
            with wau.holding(optimizer, layers.values(), active, grads):
                optimizer.step()
            optimizer.zero_grad()
    finally:
        torch.cuda.set_sync_debug_mode('default')
