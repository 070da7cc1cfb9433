"""Optimizers whose step reads whole tensors are refused where gradients of zeros would mislead it.

Among the others is what every step of torch and timm must be, which go on as before.
"""

import pytest
import torch
from torch import nn, optim

from mmwau import WAU, find_layers
from mmwau.core.state_start import Starts


class Cautious(optim.Optimizer):
    """Divides by the mean of a mask, as the cautious optimizers of timm do."""

    def __init__(self, params, lr=0.1, momentum=0.9, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    def scale(self, param, step, group):
        agrees = (step * param.grad > 0).to(step.dtype)
        return agrees / agrees.mean().clamp(min=1e-3)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                state = self.state[param]
                buffer = state.setdefault('buffer', torch.zeros_like(param))
                buffer.mul_(group['momentum']).add_(param.grad)
                step = buffer + group['weight_decay'] * param
                param.sub_(group['lr'] * step * self.scale(param, step, group))


class Trusting(Cautious):
    """Goes by the norms of the weight and the step where there is weight decay, as LARS does."""

    def scale(self, param, step, group):
        return 0.001 * param.norm() / step.norm() if group['weight_decay'] else 1


class LateTrusting(Trusting):
    """The same from its second step on."""

    def scale(self, param, step, group):
        state = self.state[param]
        state['step'] = state.get('step', 0) + 1
        return super().scale(param, step, group) if state['step'] > 1 else 1


class BySlices(Cautious):
    """Goes by the norms of slices."""

    def scale(self, param, step, group):
        norms = step.flatten(1).norm(dim=1) if step.dim() > 1 else step.abs()
        norms = norms.view(-1, *[1] * (step.dim() - 1))
        return 1 / (1 + norms)


class Clipping(Cautious):
    """Clips by the norm, which under hold='state' is that of the active slices by agreement."""

    def scale(self, param, step, group):
        return 1 / step.norm().clamp(min=1)


class Noisy(Cautious):
    def scale(self, param, step, group):
        return torch.rand_like(param)


READS_WHOLE = {
    'cautious': lambda params: Cautious(params),
    'cautious, in a warm-up': lambda params: Cautious(params, lr=0.0),
    'cautious, of a tensor': lambda params: Cautious(params, lr=torch.tensor(1e-9)),
    'trusting': lambda params: Trusting(params, weight_decay=1e-4),
    'trusting, much decay': lambda params: Trusting(params, lr=1e-5, weight_decay=1.0),
    'trusting, late': lambda params: LateTrusting(params, weight_decay=0.05),
}
READS_SLICES = {
    'trusting without decay': lambda params: Trusting(params),
    'by slices': lambda params: BySlices(params),
    'clipping': lambda params: Clipping(params),
    'noisy': lambda params: Noisy(params),
}
REFUSED = r"reads the whole tensor.*Use hold='weight' with it, or axis='layer'"


def convolution(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Conv2d(3, 8, 3).to(dtype)


def take_step(conv, optimizer):
    for param in conv.parameters():
        param.grad = torch.randn(param.shape).to(param.dtype)
    optimizer.step()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('axis', ['out', 'in'])
@pytest.mark.parametrize('make', READS_WHOLE.values(), ids=READS_WHOLE)
def test_a_step_that_reads_whole_tensors_is_refused(make, axis, dtype):
    conv = convolution(dtype)
    optimizer, layers = make(conv.parameters()), find_layers(conv, axis=axis)
    wau = WAU(hold='state')
    with pytest.raises(ValueError, match=REFUSED):
        wau.check_optimizer(optimizer, layers)
    # What the message names works.
    WAU(hold='weight').check_optimizer(optimizer, layers)
    wau.check_optimizer(optimizer, find_layers(conv, axis='layer'))
    # Nobody has to call that check.
    active, before = wau.select(layers, 0), conv.weight.detach().clone()
    with pytest.raises(ValueError, match=REFUSED), wau.holding(optimizer, layers, active):
        take_step(conv, optimizer)
    dim = 1 if axis == 'in' else 0
    moved = conv.weight.ne(before).transpose(0, dim).flatten(1).any(1)
    assert not (moved & ~active[0]).any()
    # It is found as well if there is a state already, as after a resume.
    with pytest.raises(ValueError, match=REFUSED):
        wau.check_optimizer(optimizer, layers)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('make', READS_SLICES.values(), ids=READS_SLICES)
def test_a_step_that_goes_by_slices_is_not(make, dtype):
    conv = convolution(dtype)
    optimizer, layers = make(conv.parameters()), find_layers(conv)
    WAU(hold='state').check_optimizer(optimizer, layers)
    take_step(conv, optimizer)
    WAU(hold='state').check_optimizer(optimizer, layers)


def test_each_group_is_tried_with_its_own_options():
    conv = convolution()
    groups = [dict(params=[conv.weight], weight_decay=0.05), dict(params=[conv.bias])]
    starts = Starts(Trusting(groups))
    starts.check(conv.bias, 0)
    with pytest.raises(ValueError, match=REFUSED):
        starts.check(conv.weight, 0)


def derived(kind):
    """A class that nobody knows, so that it is tried out."""
    return type(f'Derived{kind.__name__}', (kind,), {})


@pytest.mark.parametrize(
    ('kind', 'options'),
    [
        (optim.SGD, {}),
        (optim.SGD, dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
        (optim.Adam, dict(amsgrad=True, weight_decay=0.1)),
        (optim.AdamW, dict(fused=True)),
        (optim.AdamW, dict(foreach=True)),
        (optim.AdamW, dict(lr=torch.tensor(0.0), foreach=False)),
        (optim.Adagrad, dict(weight_decay=0.1)),
        (optim.Adadelta, {}),
        (optim.Adamax, {}),
        (optim.NAdam, dict(weight_decay=0.1)),
        (optim.RAdam, {}),
        (optim.RMSprop, dict(centered=True, momentum=0.9)),
    ],
)
def test_optimizers_of_torch_go_by_slices(kind, options):
    conv = convolution()
    # (What is derived from NAdam has a product that starts at one, so that no start is found.)
    for one in (kind, derived(kind)) if kind is not optim.NAdam else (kind,):
        optimizer = one(conv.parameters(), **options)
        WAU(hold='state').check_optimizer(optimizer, find_layers(conv))
        take_step(conv, optimizer)
        WAU(hold='state').check_optimizer(optimizer, find_layers(conv))


def of_timm(name, weight_decay):
    factory = pytest.importorskip('timm.optim', reason='timm is not installed')
    return factory.create_optimizer_v2(
        nn.Sequential(convolution()), name, lr=0.01, weight_decay=weight_decay
    )


def check(optimizer):
    conv = nn.Conv2d(3, 8, 3)
    group = next(g for g in optimizer.param_groups if g['params'][0].dim() == 4)
    conv.weight, conv.bias = group['params'][0], None
    WAU(hold='state').check_optimizer(optimizer, find_layers(conv))


@pytest.mark.parametrize('weight_decay', [0.0, 0.05])
@pytest.mark.parametrize('name', ['cadamw', 'clion', 'csgdw', 'clamb', 'novograd'])
def test_optimizers_of_timm_that_read_whole_tensors_are_refused(name, weight_decay):
    with pytest.raises(ValueError, match=REFUSED):
        check(of_timm(name, weight_decay))


@pytest.mark.parametrize('name', ['lamb', 'lars', 'larc'])
def test_norms_of_timm_count_where_there_is_weight_decay(name):
    check(of_timm(name, 0.0))
    with pytest.raises(ValueError, match=REFUSED):
        check(of_timm(name, 0.05))


@pytest.mark.parametrize('weight_decay', [0.0, 0.05])
@pytest.mark.parametrize(
    'name',
    ['adamw', 'adabelief', 'adamp', 'lion', 'laprop', 'nadamw', 'rmsproptf', 'sgdp', 'sgdw'],
)
def test_optimizers_of_timm_that_go_by_slices_are_not(name, weight_decay):
    check(of_timm(name, weight_decay))
