"""Skipping agrees with computing all gradients, wherever a convolution can stand."""

import copy
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.utils import digit_version
from small import SmallModel, small_runner
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmwau import WAU, WAUOptimWrapper, find_layers
from mmwau.core.narrow_convolution import gather_channels, why_not
from mmwau.core.slices import Layer
from mmwau.skipping import HeldGradSkipper
from mmwau.wau import SAMPLERS

pytestmark = pytest.mark.usefixtures('skip_in_small_layers')

# Sums of the same products in another order: a few units in the last place of the largest.
FLOAT32 = dict(rtol=1e-4, atol=1e-5)
OPTIMIZERS = {
    'sgd': lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    'adamw': lambda params: torch.optim.AdamW(params, lr=0.01),
    'adagrad': lambda params: torch.optim.Adagrad(params, lr=0.01),  # does not step slices alone
}


@st.composite
def convolutions(draw):
    kind = draw(st.sampled_from([nn.Conv1d, nn.Conv2d, nn.Conv3d]))
    options = dict(
        kernel_size=draw(st.sampled_from([1, 3])),
        bias=draw(st.booleans()),
        stride=draw(st.integers(1, 2)),
        dilation=draw(st.integers(1, 2)),
        padding=draw(st.integers(0, 2)),
    )
    if draw(st.booleans()):
        options.update(stride=1, padding=draw(st.sampled_from(['same', 'valid'])))
    torch.manual_seed(draw(st.integers(0, 100)))
    return kind(draw(st.integers(1, 5)), draw(st.integers(2, 7)), **options)


def gradients(conv, x, axis, full_grads, block=1, sampler='uniform', ratio=0.5):
    """Gradients of input, weight and bias without and with skipping, and the selection."""
    layers = find_layers(conv, axis=axis)
    active = WAU(ratio, sampler=sampler).select(layers.values(), 0)
    skipper = HeldGradSkipper(conv, layers, full_grads)
    found = []
    for skips in (False, True):
        x.grad = None
        conv.zero_grad()
        if skips:
            skipper.start(active)
        y = conv(x)
        skipper.stop()
        weights = torch.linspace(0.1, 1, y.numel()).view_as(y)
        (y * weights.to(y.dtype)).sum().backward()
        found.append([y.detach(), x.grad, *(param.grad for param in conv.parameters())])
    return found, skipper, active[0]


@given(
    convolutions(),
    st.sampled_from(['out', 'in']),
    st.sampled_from(SAMPLERS),
    st.sampled_from([1, 4, 16]),
    st.floats(0.1, 1),
    st.booleans(),
)
def test_gradients_of_active_slices_are_those_of_dense_training(
    conv, axis, sampler, block, ratio, channels_last
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmwau.core.narrow_convolution.BLOCK', block)
        x = torch.randn(2, conv.in_channels, *[7] * (conv.weight.dim() - 2))
        if channels_last and x.dim() == 4:
            conv = conv.to(memory_format=torch.channels_last)
            x = x.to(memory_format=torch.channels_last)
        x.requires_grad_()
        (dense, skipped), skipper, mask = gradients(
            conv, x, axis, True, sampler=sampler, ratio=ratio
        )
    assert not skipper.refused
    assert torch.equal(dense[0], skipped[0])
    torch.testing.assert_close(dense[1], skipped[1], **FLOAT32)
    dim = 0 if axis == 'out' else 1
    assert skipped[2].stride() == dense[2].stride()
    active, held = mask.nonzero().flatten(), (~mask).nonzero().flatten()
    torch.testing.assert_close(
        skipped[2].index_select(dim, active), dense[2].index_select(dim, active), **FLOAT32
    )
    if not skipper.find_full():
        assert not skipped[2].index_select(dim, held).any()
    if conv.bias is not None:
        chosen = active if axis == 'out' else slice(None)
        torch.testing.assert_close(skipped[3][chosen], dense[3][chosen], **FLOAT32)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.Conv2d(12, 6, 1),
        nn.Flatten(),
        nn.Linear(6 * 16, 2),
    )


def loss_of(model, update):
    generator = torch.Generator().manual_seed(update)
    x = torch.randn(4, 3, 8, 8, generator=generator, dtype=model[0].weight.dtype)
    return model(x).square().mean()


@pytest.mark.parametrize(
    ('name', 'hold', 'full_grads'),
    [
        (name, hold, full_grads)
        for name in OPTIMIZERS
        for hold in ('state', 'grad')
        for full_grads in (True, False)
        if full_grads or (hold == 'state' and name != 'adagrad')
    ],
)
@pytest.mark.parametrize('axis', ['out', 'in'])
@settings(max_examples=5)
@given(st.sampled_from(SAMPLERS), st.floats(0.2, 1), st.booleans(), st.integers(0, 1))
def test_training_goes_as_without_skipping(
    name, hold, full_grads, axis, sampler, ratio, rescale, min_active
):
    # In float64: what Adam makes of a gradient near zero is noise in float32.
    models = [network().double(), network().double()]
    optimizers = [OPTIMIZERS[name](model.parameters()) for model in models]
    layers = [find_layers(model, axis=axis) for model in models]
    wau = WAU(ratio, sampler=sampler, hold=hold, rescale=rescale, min_active=min_active)
    skipper = HeldGradSkipper(models[1], layers[1], full_grads)
    for update in range(8):
        active = wau.select(layers[0].values(), update)
        before = copy.deepcopy(models[1].state_dict())
        for iteration in range(1 + update % 2):
            loss_of(models[0], update + iteration).backward()
            with skipper.skipping(active):
                loss_of(models[1], update + iteration).backward()
        with wau.holding(optimizers[0], layers[0].values(), active):
            optimizers[0].step()
        with wau.holding(optimizers[1], layers[1].values(), active, skipper.grads):
            optimizers[1].step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        assert not skipper.grads
        assert_close_training(models, optimizers)
        for (layer, _, tensors, _), mask in zip(layers[1].values(), active, strict=True):
            if hold == 'state':
                param, dim = tensors[0]
                held = (~mask).nonzero().flatten()
                kept = before[layer].index_select(dim, held)
                assert torch.equal(param.index_select(dim, held), kept)


def assert_close_training(models, optimizers):
    for param, twin in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(twin, param)
        states = optimizers[0].state[param], optimizers[1].state[twin]
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            if torch.is_tensor(value):
                assert value.shape == states[1][key].shape
                torch.testing.assert_close(states[1][key], value)


@pytest.mark.parametrize('name', ['sgd', 'adamw'])
@pytest.mark.parametrize('hold', ['weight', 'state', 'grad'])
def test_a_step_over_active_slices_alone_has_the_bits_of_one_over_everything(name, hold):
    """Given the same gradients; floats of both are computed element by element."""
    models = [network(), network()]
    optimizers = [OPTIMIZERS[name](model.parameters()) for model in models]
    layers = [find_layers(model).values() for model in models]
    wau = WAU(hold=hold)
    for update in range(10):
        for model, optimizer, own, grads in zip(
            models, optimizers, layers, (None, {}), strict=True
        ):
            loss_of(model, update).backward()
            with wau.holding(optimizer, own, wau.select(own, update), grads):
                optimizer.step()
            optimizer.zero_grad()
        for param, twin in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(param, twin)
            for key, value in optimizers[0].state[param].items():
                assert torch.equal(value, optimizers[1].state[twin][key])


def test_what_fails_in_a_step_leaves_parameters_and_state_whole():
    model = network()
    optimizer = OPTIMIZERS['adamw'](model.parameters())
    layers = find_layers(model).values()
    wau = WAU(hold='state')
    loss_of(model, 0).backward()
    with wau.holding(optimizer, layers, wau.select(layers, 0), {}):
        optimizer.step()
    shapes = [param.shape for param in model.parameters()]
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    with (
        pytest.raises(RuntimeError, match='on purpose'),
        wau.holding(optimizer, layers, wau.select(layers, 1), {}),
    ):
        raise RuntimeError('on purpose')
    assert [param.shape for param in model.parameters()] == shapes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[0][name])
    for index, state in optimizer.state_dict()['state'].items():
        for key, value in state.items():
            assert torch.equal(value, before[1]['state'][index][key])


def test_gradients_that_come_another_way_are_added():
    """A penalty on the weights, and a second use of the weight outside of its module."""
    models = [network(), network()]
    optimizers = [OPTIMIZERS['sgd'](model.parameters()) for model in models]
    layers = [find_layers(model) for model in models]
    skipper = HeldGradSkipper(models[1], layers[1], full_grads=False)
    wau = WAU(hold='state')
    active = wau.select(layers[0].values(), 0)
    for model in models:
        with skipper.skipping(active):
            loss = loss_of(model, 0) + model[0].weight.abs().sum()
            loss = loss + nn.functional.conv2d(torch.ones(1, 3, 5, 5), model[0].weight).sum()
            loss.backward()
    for optimizer, own, grads in zip(optimizers, layers, (None, skipper.grads), strict=True):
        with wau.holding(optimizer, own.values(), active, grads):
            optimizer.step()
    assert_close_training(models, optimizers)


@pytest.mark.parametrize('axis', ['out', 'in'])
@pytest.mark.parametrize('channels_last', [True, False])
def test_fused_optimizers_train_as_without_skipping(monkeypatch, axis, channels_last):
    """They read memory as it lies, so that weights, gradients and state must lie alike."""
    monkeypatch.setattr('mmwau.core.narrow_convolution.BLOCK', 8)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    models = [network().double().to(memory_format=memory_format) for _ in range(2)]
    optimizers = [torch.optim.AdamW(model.parameters(), fused=True) for model in models]
    layers = [find_layers(model, axis=axis) for model in models]
    skipper = HeldGradSkipper(models[1], layers[1], full_grads=False)
    wau = WAU(hold='state')
    for update in range(4):
        active = wau.select(layers[0], update)
        loss_of(models[0], update).backward()
        with skipper.skipping(active):
            loss_of(models[1], update).backward()
        for optimizer, own, grads in zip(optimizers, layers, (None, skipper.grads), strict=True):
            with wau.holding(optimizer, own, active, grads):
                optimizer.step()
            optimizer.zero_grad()
        assert_close_training(models, optimizers)


@pytest.mark.parametrize(('hold', 'name'), [('weight', 'sgd'), ('state', 'adagrad')])
def test_gradients_that_the_step_cannot_use_are_told(hold, name):
    model = network()
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers, full_grads=False)
    wau = WAU(hold=hold)
    active = wau.select(layers.values(), 0)
    with skipper.skipping(active):
        loss_of(model, 0).backward()
    optimizer = OPTIMIZERS[name](model.parameters())
    with (
        pytest.raises(ValueError, match=rf'got hold=.{hold}. and .*full_grads=True'),
        wau.holding(optimizer, layers.values(), active, skipper.grads),
    ):
        pass


@pytest.mark.parametrize('axis', ['out', 'in', 'layer'])
@pytest.mark.parametrize('full_grads', [True, False])
def test_gradients_of_another_selection_are_not_mixed_in(axis, full_grads):
    model = network()
    layers = find_layers(model, axis=axis)
    skipper = HeldGradSkipper(model, layers, full_grads)
    wau = WAU(hold='state')
    for _ in range(2):  # gradient accumulation
        with skipper.skipping(wau.select(layers, 0)):
            loss_of(model, 0).backward()
    with pytest.raises(ValueError, match=r'of another selection.*skipper\.grads\.clear\(\)'):
        skipper.start(wau.select(layers, 1))
    assert not any('_conv_forward' in module.__dict__ for module in model)
    skipper.grads.clear()
    skipper.start(wau.select(layers, 1))
    skipper.stop()


@pytest.mark.parametrize('axis', ['out', 'layer'])
@pytest.mark.parametrize('set_to_none', [True, False])
def test_an_update_is_dropped_with_its_gradients(axis, set_to_none):
    model = network()
    layers = find_layers(model, axis=axis)
    skipper, wau = HeldGradSkipper(model, layers), WAU(hold='state')
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    for update in range(6):
        active = wau.select(layers, update)
        with skipper.skipping(active):
            loss = loss_of(model, update)
            if update != 1:  # a loss that is not finite
                loss.backward()
        if update == 3:  # nor are these gradients
            optimizer.zero_grad(set_to_none)
        if update not in (1, 3):
            # Without skipper.grads, which holds nothing here.
            with wau.holding(optimizer, layers, active):
                optimizer.step()
            optimizer.zero_grad(set_to_none)


@pytest.mark.parametrize('full_grads', [True, False])
def test_gradients_that_are_asked_for_are_not_kept_for_the_step(full_grads):
    model = network()
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers, full_grads)
    active = WAU().select(layers, 0)
    x, weight = torch.randn(4, 3, 8, 8, requires_grad=True), model[0].weight
    (dense,) = torch.autograd.grad(model(x).square().mean(), weight)
    with skipper.skipping(active):
        torch.autograd.grad(model(x).square().mean(), x, create_graph=True)
        model(x).square().mean().backward(inputs=[x])
        (grad,) = torch.autograd.grad(model(x).square().mean(), weight)
    assert not skipper.grads
    assert weight.grad is None
    torch.testing.assert_close(grad[active[0]], dense[active[0]], **FLOAT32)
    assert not grad[~active[0]].any()


def test_a_hook_on_a_parameter_gets_its_gradient_in_full():
    model, seen = network(), []
    model[0].weight.register_hook(lambda grad: seen.append(grad.shape))
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers, full_grads=False)
    with skipper.skipping(WAU().select(layers.values(), 0)):
        loss_of(model, 0).backward()
    assert seen == [model[0].weight.shape]
    assert model[4].weight in skipper.grads
    assert model[0].weight not in skipper.grads


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_activation_checkpointing(use_reentrant):
    models = [network(), network()]
    layers = find_layers(models[1])
    skipper = HeldGradSkipper(models[1], layers)
    active = WAU().select(layers.values(), 0)
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    models[0](x).square().mean().backward()
    with skipper.skipping(active):
        checkpoint(models[1], x, use_reentrant=use_reentrant).square().mean().backward()
    assert skipper.find_full() == {'3': 'grouped'}
    for index in (0, 4):
        mask = active[list(layers).index(str(index))]
        torch.testing.assert_close(
            models[1][index].weight.grad[mask], models[0][index].weight.grad[mask], **FLOAT32
        )
        assert not models[1][index].weight.grad[~mask].any()


def test_autocast_computes_in_its_own_type_and_gives_gradients_in_theirs():
    conv = nn.Conv2d(3, 8, 3)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        (dense, skipped), _, mask = gradients(conv, x, 'out', True)
    assert skipped[0].dtype == torch.bfloat16
    assert torch.equal(dense[0], skipped[0])
    assert [grad.dtype for grad in skipped[1:]] == [torch.float32] * 3
    for one, other in zip(dense[2:], skipped[2:], strict=True):
        torch.testing.assert_close(one[mask], other[mask], rtol=2e-2, atol=2e-2)
        assert not other[~mask].any()


class CentredConvolution(nn.Conv2d):
    """Convolves with a weight that is computed from its parameter."""

    def forward(self, x):
        centred = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return self._conv_forward(x, centred, self.bias)


class Pyramid(nn.Conv2d):
    """One weight at several dilations, as in atrous pyramids that share it."""

    def forward(self, x):
        y = 0
        for dilation in (1, 2, 3):
            self.padding = self.dilation = (dilation, dilation)
            y = y + self._conv_forward(x, self.weight, self.bias)
        return y


@pytest.mark.parametrize('axis', ['out', 'in'])
def test_a_geometry_that_changes_from_one_pass_to_the_next(axis):
    conv = Pyramid(4, 8, 3)
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    (dense, skipped), skipper, mask = gradients(conv, x, axis, True)
    dim = 0 if axis == 'out' else 1
    active = mask.nonzero().flatten()
    torch.testing.assert_close(skipped[1], dense[1], **FLOAT32)
    torch.testing.assert_close(
        skipped[2].index_select(dim, active), dense[2].index_select(dim, active), **FLOAT32
    )
    assert not skipper.find_full()


@pytest.mark.parametrize('change', [dict(padding_mode='circular'), dict(groups=2)])
def test_a_geometry_that_cannot_be_skipped_any_more_is_computed_in_full(change):
    conv = nn.Conv2d(4, 8, 3, padding=1)
    layers = find_layers(conv)
    skipper = HeldGradSkipper(conv, layers)
    if 'groups' in change:
        conv = nn.Conv2d(2, 8, 3, padding=1)
        layers = find_layers(conv)
        skipper = HeldGradSkipper(conv, layers)
        conv.in_channels = 4
    vars(conv).update(change, _reversed_padding_repeated_twice=[1, 1, 1, 1])
    x = torch.randn(2, 4, 6, 6)
    conv(x).square().sum().backward()
    dense = conv.weight.grad.clone()
    conv.zero_grad()
    with skipper.skipping(WAU().select(layers, 0)):
        conv(x).square().sum().backward()
    assert torch.equal(conv.weight.grad, dense)


class TwiceUsed(nn.Module):
    """A weight that is used outside of its module too, and an input of two branches."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.x = nn.Parameter(torch.randn(2, 3, 6, 6))

    def forward(self):
        y = self.conv(self.x)
        tied = nn.functional.conv2d(self.x, self.conv.weight, padding=1, stride=2)
        return y.float().square().mean() + tied.float().pow(3).mean()


def test_autocast_keeps_no_cast_that_leads_to_no_gradient():
    torch.manual_seed(0)
    model = TwiceUsed()
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers)
    (active,) = WAU().select(layers, 0)
    found = []
    for skips in (False, True):
        model.zero_grad()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            if skips:
                skipper.start([active])
            loss = model()
            skipper.stop()
        loss.backward()
        found.append([model.x.grad.clone(), model.conv.weight.grad.clone()])
    (x, weight), (x_skipped, weight_skipped) = found
    torch.testing.assert_close(x_skipped, x, rtol=0.02, atol=1e-4)
    torch.testing.assert_close(weight_skipped[active], weight[active], rtol=0.02, atol=1e-4)
    assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize('autocast', [False, True])
def test_gradient_penalties(autocast):
    """Derivatives of derivatives, in which casts have a part too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh())
    layers = find_layers(model)
    active = WAU().select(layers, 0)
    skipper, found = HeldGradSkipper(model, layers), []
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    for skips in (False, True):
        model.zero_grad()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            if skips:
                skipper.start(active)
            (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            skipper.stop()
        (grad.float().flatten(1).norm(dim=1) - 1).square().sum().backward()
        found.append([model[0].weight.grad[active[0]], model[2].weight.grad[active[1]]])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=0.05 if autocast else 1e-4, atol=1e-2)
        assert one.abs().max() > 0.1


def test_functions_of_torch_func_compute_in_full():
    conv = nn.Conv2d(3, 8, 3)
    layers = find_layers(conv)
    skipper = HeldGradSkipper(conv, layers)
    x = torch.randn(5, 2, 3, 6, 6)
    expected = torch.stack([conv(one) for one in x])
    dense = torch.func.jvp(conv, (x[0],), (x[1],))[1]
    with skipper.skipping(WAU().select(layers, 0)):
        torch.testing.assert_close(torch.vmap(conv)(x), expected, **FLOAT32)
        assert torch.equal(torch.func.jvp(conv, (x[0],), (x[1],))[1], dense)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x[0], x[1])
            tangent = torch.autograd.forward_ad.unpack_dual(conv(dual)).tangent
    torch.testing.assert_close(tangent, dense)


def test_a_graph_that_is_older_than_the_selection_gets_all_gradients():
    conv = nn.Conv2d(3, 8, 3)
    layers = find_layers(conv)
    skipper = HeldGradSkipper(conv, layers, full_grads=False)
    wau = WAU(hold='state')
    x = torch.randn(2, 3, 6, 6)
    (dense,) = torch.autograd.grad(conv(x).square().mean(), conv.weight)
    with skipper.skipping(wau.select(layers, 0)):
        loss = conv(x).square().mean()
    with skipper.skipping(wau.select(layers, 1)):
        loss.backward()
    assert not skipper.grads
    torch.testing.assert_close(conv.weight.grad, dense, **FLOAT32)


def full_gradients(model):
    model.zero_grad()
    loss_of(model, 0).backward()
    return model[0].weight.grad.flatten(1).any(dim=1).all()


def test_a_patch_that_survives_acts_as_the_plain_layer():
    model = network()
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers)
    with skipper.skipping(WAU().select(layers, 0)):
        assert not full_gradients(model)
        patch = model[0]._conv_forward
    model[0]._conv_forward = patch
    assert full_gradients(model)


def test_a_new_skipper_takes_the_place_of_an_old_one():
    model = network()
    layers = find_layers(model)
    active = WAU().select(layers, 0)
    HeldGradSkipper(model, layers).start(active)  # never stopped
    skipper = HeldGradSkipper(model, layers)
    assert full_gradients(model)
    with skipper.skipping(active):
        assert not full_gradients(model)
    assert full_gradients(model)
    assert not any('_conv_forward' in module.__dict__ for module in model)


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_model_that_is_copied_inside_skips_as_any_other(copied):
    model = network()
    layers = find_layers(model)
    active = WAU().select(layers, 0)
    with HeldGradSkipper(model, layers).skipping(active):
        twin = copied(model)
    assert full_gradients(twin)
    layers = find_layers(twin)
    skipper = HeldGradSkipper(twin, layers)
    assert skipper.refused == {'3': 'grouped'}
    with skipper.skipping(active):
        assert not full_gradients(twin)
    assert full_gradients(twin)


@pytest.mark.parametrize('full_grads', [True, False])
def test_holding_takes_no_gradients_of_another_selection(full_grads):
    model = network()
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers, full_grads)
    wau = WAU(hold='state')
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    with skipper.skipping(wau.select(layers, 0)):
        loss_of(model, 0).backward()
    with (
        pytest.raises(ValueError, match=r'gradients are of another selection.*the same active'),
        wau.holding(optimizer, layers, wau.select(layers, 1), skipper.grads),
    ):
        pass
    with wau.holding(optimizer, layers, wau.select(layers, 0), skipper.grads):
        optimizer.step()
    optimizer.zero_grad()
    loss_of(model, 1).backward()  # in full, so that they are of any selection
    with wau.holding(optimizer, layers, wau.select(layers, 1), skipper.grads):
        optimizer.step()


def test_each_of_two_optimizers_uses_its_own_gradients():
    """Of one model, with one skipper: as it would be with a model and a skipper for each."""
    models, ends = [network().double(), network().double()], []
    for model, splits in zip(models, (False, True), strict=True):
        layers = find_layers(model)
        wau = WAU(hold='state')
        parts = [model[0], model[4]] if splits else [model]
        optimizers = [OPTIMIZERS['adamw'](part.parameters()) for part in parts]
        if not splits:
            for index in (1, 3, 6):
                model[index].requires_grad_(False)
        skipper = HeldGradSkipper(model, layers, full_grads=False)
        for update in range(4):
            active = wau.select(layers, update)
            with skipper.skipping(active):
                loss_of(model, update).backward()
            for optimizer in optimizers:
                with wau.holding(optimizer, layers, active, skipper.grads):
                    optimizer.step()
            assert not skipper.grads or set(skipper.grads) == {model[3].weight}
            model.zero_grad()
        ends.append([model[0].weight, model[4].weight, model[4].bias])
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one, other)


class ScaledBias(nn.Conv2d):
    """Its bias is computed from parameters."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self._conv_forward(x, self.weight, self.bias * self.gain)


@pytest.mark.parametrize('full_grads', [True, False])
def test_a_bias_that_is_computed_gets_all_gradients(full_grads):
    conv = ScaledBias(3, 8, 3)
    layer = Layer('weight', 8, ((conv.weight, 0), (conv.bias, 0)))
    skipper = HeldGradSkipper(conv, {'': layer}, full_grads)
    x, found = torch.randn(2, 3, 6, 6), []
    for skips in (False, True):
        conv.zero_grad()
        if skips:
            skipper.start(WAU().select([layer], 0))
        conv(x).square().mean().backward()
        skipper.stop()
        found.append([param.grad.clone() for param in conv.parameters()])
    assert all(map(torch.equal, *found))


def test_gradients_of_a_second_selection_are_not_taken_by_another_optimizer():
    model = network()
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers, full_grads=False)
    wau = WAU(hold='state')
    first, second = (OPTIMIZERS['sgd'](model[place].parameters()) for place in (0, 4))
    with skipper.skipping(wau.select(layers, 0)):
        loss_of(model, 0).backward()
    with wau.holding(first, layers, wau.select(layers, 0), skipper.grads):
        first.step()
    with (
        pytest.raises(ValueError, match='gradients are of another selection'),
        wau.holding(second, layers, wau.select(layers, 1), skipper.grads),
    ):
        pass


def test_gradients_that_are_dropped_inside_are_of_the_same_selection_still():
    model = network()
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers, full_grads=False)
    wau = WAU(hold='state')
    with skipper.skipping(wau.select(layers, 0)):
        loss = loss_of(model, 0)
        skipper.grads.clear()
        loss.backward()
    assert skipper.grads
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    with (
        pytest.raises(ValueError, match='gradients are of another selection'),
        wau.holding(optimizer, layers, wau.select(layers, 1), skipper.grads),
    ):
        pass
    skipper.flush()
    with wau.holding(optimizer, layers, wau.select(layers, 1), skipper.grads):
        optimizer.step()


def test_a_skipper_belongs_to_its_model():
    model = network()
    skipper = HeldGradSkipper(model, find_layers(model))
    with pytest.raises(TypeError, match='make a new one for a copy'):
        copy.deepcopy(skipper)


@pytest.mark.slow
def test_selections_of_any_size_compile_once():
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    layers = find_layers(conv)
    skipper = HeldGradSkipper(conv, layers)
    compiled = torch.compile(conv, backend='eager')
    for update in range(12):  # in some of them all slices of a layer are active
        with skipper.skipping(WAU(0.8, sampler='bernoulli').select(layers, update)):
            compiled(torch.randn(2, 3, 8, 8)).sum().backward()
    assert counters['frames']['total'] == 1


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_activation_checkpointing_with_a_backward_pass_outside(use_reentrant):
    """The forward pass that is made again in there is the plain one."""
    models = [network(), network()]
    layers = find_layers(models[1])
    skipper = HeldGradSkipper(models[1], layers)
    active = WAU().select(layers, 0)
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    models[0](x).square().mean().backward()
    with skipper.skipping(active):
        loss = checkpoint(models[1], x, use_reentrant=use_reentrant).square().mean()
    loss.backward()
    torch.testing.assert_close(
        models[1][4].weight.grad[active[2]], models[0][4].weight.grad[active[2]], **FLOAT32
    )


def test_a_weight_that_is_computed_gets_all_gradients():
    """Each slice of the parameter has a part in all slices of the computed weight."""
    conv = CentredConvolution(4, 8, 3)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    (dense, skipped), skipper, _ = gradients(conv, x, 'in', True)
    torch.testing.assert_close(skipped[2], dense[2], **FLOAT32)
    assert skipper.find_full() == {'': 'compiled, or not used in the first update'}


def test_a_weight_that_is_frozen_meanwhile_gets_no_gradient():
    conv = nn.Conv2d(4, 32, 3)
    layers = find_layers(conv)
    skipper = HeldGradSkipper(conv, layers, full_grads=False)
    wau = WAU(hold='state')
    conv.weight.requires_grad_(False)
    before = conv.weight.clone()
    active = wau.select(layers, 0)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    with skipper.skipping(active):
        conv(torch.randn(2, 4, 6, 6)).square().mean().backward()
    with wau.holding(optimizer, layers, active, skipper.grads):
        optimizer.step()
    assert torch.equal(conv.weight, before)


def test_why_nothing_is_skipped_where_nothing_is_held():
    conv = nn.Conv2d(4, 1, 3)
    layers = find_layers(conv)
    skipper = HeldGradSkipper(conv, layers)
    with skipper.skipping(WAU().select(layers, 0)):
        conv(torch.randn(2, 4, 6, 6)).square().mean().backward()
    assert skipper.find_full() == {'': 'all their slices are active'}


def test_second_derivatives():
    conv = nn.Conv2d(3, 8, 3).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.double, requires_grad=True)
    layers = find_layers(conv)
    skipper = HeldGradSkipper(conv, layers)
    (active,) = WAU().select(layers.values(), 0)
    penalties = []
    for skips in (False, True):
        conv.zero_grad()
        if skips:
            skipper.start([active])
        (grad,) = torch.autograd.grad(conv(x).pow(3).sum(), x, create_graph=True)
        skipper.stop()
        grad.square().sum().backward()
        penalties.append(conv.weight.grad[active].clone())
    torch.testing.assert_close(*penalties)


def test_modules_are_as_before_inside_and_after():
    model = network().eval()
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers)
    keys, state = list(model.state_dict()), dict(model[0].__dict__)
    active = WAU().select(layers.values(), 0)
    x = torch.randn(1, 3, 8, 8)
    expected = model(x)
    with skipper.skipping(active):
        assert type(model[0]) is nn.Conv2d
        assert list(model.state_dict()) == keys
        assert torch.equal(model(x), expected)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            loss_of(twin, 0).backward()
            assert twin[0].weight.grad.flatten(1).any(dim=1).all()
            assert torch.equal(twin(x), expected)
    assert model[0].__dict__ == state
    with pytest.raises(RuntimeError, match='on purpose'), skipper.skipping(active):
        raise RuntimeError('on purpose')
    assert model[0].__dict__ == state


class OwnConvolution(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight, bias) * 2


@pytest.mark.parametrize(
    ('module', 'reason'),
    [
        (nn.Conv2d(4, 4, 3, groups=2), 'grouped'),
        (nn.ConvTranspose2d(4, 4, 3), 'ConvTranspose2d is not one of Conv1d, Conv2d, Conv3d'),
        (nn.Conv2d(4, 4, 3, padding_mode='reflect'), "padding_mode='reflect'"),
        (nn.Conv2d(4, 4, 2, padding='same'), "padding='same' with a kernel of even size"),
        (nn.Conv2d(4, 4, 3, dtype=torch.complex64), 'its weight is complex'),
        (OwnConvolution(4, 4, 3), 'OwnConvolution convolves in a way of its own'),
        (nn.Conv2d(4, 4, 3, padding='same', dilation=2), ''),
    ],
)
def test_why_not(module, reason):
    assert why_not(module) == reason


def test_a_module_that_somebody_else_has_patched_stays_patched():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    model[0]._conv_forward = patch = lambda x, weight, bias: nn.functional.conv2d(x, weight * 2)
    layers = find_layers(model)
    skipper = HeldGradSkipper(model, layers)
    with skipper.skipping(WAU().select(layers, 0)):
        assert model[0]._conv_forward is patch
    assert model[0]._conv_forward is patch
    assert skipper.refused == {'0': 'Conv2d convolves in a way of its own'}


@pytest.mark.parametrize(('num_active', 'fan', 'pays'), [(16, 9, False), (16, 128, True)])
def test_small_layers_are_computed_in_full(monkeypatch, num_active, fan, pays):
    monkeypatch.setattr('mmwau.core.narrow_convolution.MIN_SAVED', 64)
    monkeypatch.setattr('mmwau.core.narrow_convolution.BLOCK', 16)
    conv = nn.Conv2d(fan, 2 * num_active, 1)
    x = torch.randn(2, fan, 4, 4, requires_grad=True)
    _, skipper, _ = gradients(conv, x, 'out', True)
    reason = 'so few slices are held that skipping them costs more than it saves'
    assert skipper.find_full() == ({} if pays else {'': reason})


@pytest.mark.parametrize('channels_last', [True, False])
def test_gathered_channels_keep_the_memory_format(channels_last):
    x = torch.randn(2, 5, 3, 4)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = x.to(memory_format=memory_format)
    gathered = gather_channels(x, torch.tensor([3, 1]))
    assert torch.equal(gathered, x[:, [3, 1]])
    assert gathered.is_contiguous(memory_format=memory_format)


def train(tmp_path, options, hooks=(), **others):
    options = dict(type='WAUOptimWrapper', hold='state', **options)
    runner = small_runner(tmp_path, options, list(hooks), **others)
    runner.train()
    assert not any('_conv_forward' in module.__dict__ for module in runner.model.modules())
    return runner


def log_of(work_dir):
    return next(work_dir.glob('*/*.log')).read_text()


class Unfreeze(Hook):
    """Unfreezes a stage in the middle of a window of gradient accumulation."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.backbone[0].requires_grad_(runner.iter >= 3)


@pytest.mark.parametrize(
    ('options', 'hooks'),
    [
        ({}, []),
        (dict(axis='in'), []),
        (dict(accumulative_counts=2), []),
        (dict(accumulative_counts=2), [Unfreeze()]),
        (dict(accumulative_counts=2, clip_grad=dict(max_norm=0.1)), []),
        (
            dict(accumulative_counts=2),
            [
                Unfreeze(),
                dict(
                    type='WAUHook',
                    ratio_schedule=dict(type='linear', start=0.3, stop=1, begin=0, end=6),
                    by_epoch=False,
                ),
            ],
        ),
    ],
)
def test_a_run_ends_as_it_does_without_skipping(tmp_path, options, hooks):
    runs = [
        train(tmp_path / str(skips), {**options, 'skip_held_grads': skips}, hooks, max_epochs=3)
        for skips in (True, False)
    ]
    assert re.search(
        r'skips the gradients of held slices in [23] of [23]', log_of(tmp_path / 'True')
    )
    assert 'skips the gradients' not in log_of(tmp_path / 'False')
    models = [run.model for run in runs]
    optimizers = [run.optim_wrapper.optimizer for run in runs]
    for param, twin in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(param, twin, **FLOAT32)
        for key, value in optimizers[0].state[param].items():
            torch.testing.assert_close(value, optimizers[1].state[twin][key], **FLOAT32)


class HookTheOptimizer(Hook):
    """Hooks into the step of the optimizer after the first update."""

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 1:
            runner.optim_wrapper.optimizer.register_step_post_hook(self.see)
            self.shapes = set()

    def see(self, *args):
        self.shapes.add(tuple(self.weight.shape))

    def before_train(self, runner):
        self.weight = runner.model.neck.weight


def test_whoever_hooks_into_the_optimizer_sees_whole_parameters(tmp_path):
    hook = HookTheOptimizer()
    train(tmp_path, {}, [hook])
    assert hook.shapes == {(6, 8, 1, 1)}


class StopInTheMiddle(Hook):
    """Stops training in the middle of a window of gradient accumulation."""

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = True


def test_a_run_that_is_stopped_in_the_middle_of_an_update_leaves_the_model_as_it_was(tmp_path):
    hooks = [StopInTheMiddle(), dict(type='WAUHook')]
    runner = train(tmp_path, dict(accumulative_counts=4), hooks, max_epochs=3)
    assert runner.iter == 3


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'),
    reason='the compiler of this torch traces into the step and fails (docs/usage.md, limits)',
)
def test_compiled_training_computes_everything_and_says_so(tmp_path):
    runner = train(tmp_path, {}, cfg=dict(compile=dict(backend='eager')))
    log = log_of(tmp_path)
    assert 'WARNING - WAU skips the gradients of held slices in 0 of 2 layers' in log
    assert 'computes all gradients of 2 layers: compiled, or not used in the first update' in log
    assert runner.optim_wrapper.skip_held_grads


@pytest.mark.parametrize(
    ('options', 'error', 'words'),
    [
        (dict(skip_held_grads=True), ValueError, r"does not go with hold='weight'.*hold='state'"),
        (dict(skip_held_grads='yes'), TypeError, r"must be True, False or None .*got 'yes'"),
    ],
)
def test_wrong_use_is_told(options, error, words):
    optimizer = torch.optim.SGD(SmallModel().parameters(), lr=0.1)
    with pytest.raises(error, match=words):
        WAUOptimWrapper(optimizer=optimizer, **options)


@pytest.mark.parametrize(('hold', 'skips'), [('weight', False), ('state', True), ('grad', True)])
def test_is_the_default_where_it_is_valid(hold, skips):
    optimizer = torch.optim.SGD(SmallModel().parameters(), lr=0.1)
    assert WAUOptimWrapper(optimizer=optimizer, hold=hold).skip_held_grads is skips


def test_gradients_that_are_dropped_before_the_step_are_dropped_in_full():
    model = SmallModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = WAUOptimWrapper(optimizer=optimizer, hold='state', seed=0)
    wrapper.initialize_count_status(model, 0, 10)
    before = model.neck.weight.detach().clone()
    with wrapper.optim_context(model):
        loss = model(torch.randn(2, 3, 8, 8), torch.zeros(2), mode='loss')['loss']
    wrapper.backward(loss)
    wrapper.zero_grad()
    wrapper.step()
    assert torch.equal(model.neck.weight, before)
