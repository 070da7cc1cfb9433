"""Convolutions that are held as a whole, and what surrounds their forward passes."""

import threading
from contextlib import nullcontext

import pytest
import torch
from mmcv.ops import DeformConv2dPack
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize

from mmwau import WAU, HeldGradSkipper, attach, find_layers


def network(num_convs=4, kind=nn.Conv2d, **options):
    torch.manual_seed(0)
    layers = []
    for place in range(num_convs):
        layers += [kind(6 if place else 3, 6, 3, padding=1, **options), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def inputs(update=0):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(update))


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, **options)


def attached(model, update_ratio=0.5, hold='state', **options):
    optimizer = sgd(model)
    return optimizer, attach(
        optimizer, model, update_ratio, axis='layer', hold=hold, seed=0, **options
    )


def train(model, optimizer, updates=5):
    for update in range(updates):
        model(inputs(update)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def held_with_grad(handle):
    """Names of the layers that are held in the update under way and have a gradient."""
    active = handle._updates.active
    return {
        name
        for (name, layer), mask in zip(handle.layers.items(), active, strict=True)
        if not mask and any(param.grad is not None for param, _ in layer.tensors)
    }


def test_the_output_may_be_changed_in_place():
    ends = []
    for skips in (True, False):
        model = network()
        optimizer, _ = attached(model, hold='grad', skip_held_grads=skips)
        train(model, optimizer)
        ends.append(list(model.parameters()))
    assert all(map(torch.equal, *ends))


# At which every layer is held.
NONE = dict(update_ratio=0.1, min_active=0)


class TestEveryLayerHeld:
    @pytest.mark.parametrize('skips', [True, False])
    def test_trains_nothing(self, skips):
        model = network()
        before = [param.detach().clone() for param in model.parameters()]
        optimizer, _ = attached(model, skip_held_grads=skips, **NONE)
        train(model, optimizer)
        assert all(map(torch.equal, model.parameters(), before))
        assert not optimizer.state

    def test_a_scaler_makes_its_step(self):
        model = network()
        optimizer, handle = attached(model, **NONE)
        scaler = torch.amp.GradScaler('cpu')
        for update in range(3):
            scaler.scale(model(inputs(update)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert handle.update_index == 3

    def test_a_scaler_makes_its_step_inside_of_holding(self):
        model = network()
        before = [param.detach().clone() for param in model.parameters()]
        optimizer, layers = sgd(model), find_layers(model, axis='layer')
        wau, scaler = WAU(hold='state', **NONE), torch.amp.GradScaler('cpu')
        for update in range(3):
            scaler.scale(model(inputs(update)).square().mean()).backward()
            with wau.holding(optimizer, layers, wau.select(layers, update)):
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert all(map(torch.equal, model.parameters(), before))
        assert not optimizer.state


def test_a_convolution_with_another_one_inside():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), DeformConv2dPack(4, 6, 3), nn.Conv2d(6, 4, 3))
    optimizer, handle = attached(model)
    held = set()
    for update in range(6):
        model(inputs(update)).square().mean().backward()
        assert not held_with_grad(handle)
        masks = zip(handle.layers, handle._updates.active, strict=True)
        held |= {name for name, mask in masks if not mask}
        optimizer.step()
        optimizer.zero_grad()
    assert {'1', '1.conv_offset'} <= held


@pytest.mark.parametrize('norm', [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_weight_that_a_hook_computes_before_is_refused(norm):
    model = nn.Sequential(norm(nn.Conv2d(3, 6, 3)), nn.Conv2d(6, 6, 3))
    refused = HeldGradSkipper(model, find_layers(model, axis='layer')).refused
    reason = 'its weight is computed before its forward pass (torch.nn.utils.weight_norm)'
    assert refused == {'0': reason}


class TwoOutputs(nn.Conv2d):
    def forward(self, x):
        return super().forward(x), 1


def test_an_output_that_can_bring_no_gradient_is_told():
    model = TwoOutputs(3, 6, 3)
    attached(model, hold='grad', **NONE)
    with pytest.raises(TypeError, match='TwoOutputs only if its output is a tensor, got tuple'):
        model(inputs())
    assert all(isinstance(param, nn.Parameter) for param in model.parameters())


def test_hooks_of_others_see_the_module_as_it_is():
    model = network(1)
    seen = []

    def look(module, args, output):
        seen.append(isinstance(module.weight, nn.Parameter))
        return output, 1

    model[0].register_forward_hook(look)
    model[1].register_forward_pre_hook(lambda module, args: args[0][0])
    optimizer, _ = attached(model, hold='grad', **NONE)
    train(model, optimizer)
    assert seen == [True] * 5


def test_forward_mode_derivatives():
    model = network()
    attached(model, hold='grad')
    with forward_ad.dual_level():
        output = model(forward_ad.make_dual(inputs(0), inputs(1)))
        assert forward_ad.unpack_dual(output).tangent.any()


def test_a_traced_model_trains_every_layer():
    model = network(2)
    layers = find_layers(model, axis='layer')
    skipper = HeldGradSkipper(model, layers, full_grads=False)
    with skipper.skipping([torch.tensor([False])] * 2):
        traced = torch.jit.trace(model, inputs())
    traced(inputs()).sum().backward()
    assert all(param.grad is not None for param in traced.parameters())


@pytest.mark.parametrize(('axis', 'method'), [('layer', 'forward'), ('out', '_conv_forward')])
def test_a_patch_that_somebody_else_has_put_there_meanwhile_stays(axis, method):
    model = network(2)
    layers = find_layers(model, axis=axis)
    skipper = HeldGradSkipper(model, layers)
    plain, calls = getattr(model[0], method), []

    def patch(*args):
        calls.append(args)
        return plain(*args)

    setattr(model[0], method, patch)
    with skipper.skipping(WAU(hold='state').select(layers, 0)):
        model(inputs())
    model(inputs())
    assert len(calls) == 2
    assert getattr(model[0], method) is patch


def test_other_threads_evaluate_meanwhile():
    model = network(6)
    optimizer, _ = attached(model)
    errors, ends = [], threading.Event()

    def evaluate():
        try:
            while not ends.is_set():
                with torch.no_grad():
                    model(inputs())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=evaluate)
    thread.start()
    try:
        train(model, optimizer, 30)
    finally:
        ends.set()
        thread.join()
    assert not errors
    assert all(isinstance(param, nn.Parameter) for param in model.parameters())


def test_the_log_does_not_say_that_a_compiled_model_skips(caplog):
    model = network()
    optimizer, _ = attached(model)
    with caplog.at_level('INFO', 'mmwau'):
        train(torch.compile(model, backend='eager'), optimizer, 1)
    assert 'skips the gradients of held slices in 0 of 4 layers' in caplog.text


class NormAndDirection(nn.Module):
    def forward(self, norm, direction):
        return norm * direction

    def right_inverse(self, weight):
        return weight.norm(), weight / weight.norm()


def test_a_parameter_may_be_a_single_number():
    model = nn.Sequential(*(nn.Conv2d(3, 3, 3, bias=False) for _ in range(2)))
    for module in model:
        parametrize.register_parametrization(module, 'weight', NormAndDirection())
    optimizer, handle = attached(model, rescale=True)
    train(model, optimizer)
    assert [layer.num_filters for layer in handle.layers.values()] == [3, 3]


@pytest.mark.parametrize('full_grads', [True, False])
def test_a_step_with_another_selection_is_told(full_grads):
    model = network()
    layers = find_layers(model, axis='layer')
    skipper = HeldGradSkipper(model, layers, full_grads)
    wau, optimizer = WAU(hold='state'), sgd(model)
    with skipper.skipping(wau.select(layers, 0)):
        model(inputs()).square().mean().backward()
    with (
        pytest.raises(ValueError, match='gradients are of another selection'),
        wau.holding(optimizer, layers, wau.select(layers, 1), skipper.grads),
    ):
        pass
    with wau.holding(optimizer, layers, wau.select(layers, 0), skipper.grads):
        optimizer.step()


def test_under_hold_grad_momentum_moves_what_is_held_however_it_is_skipped():
    ends = []
    for full_grads in (None, True, False):
        model = network()
        layers = find_layers(model, axis='layer')
        wau, optimizer = WAU(hold='grad'), sgd(model)
        skipper = None if full_grads is None else HeldGradSkipper(model, layers, full_grads)
        for update in range(4):
            active = wau.select(layers, update)
            with nullcontext() if skipper is None else skipper.skipping(active):
                model(inputs()).square().mean().backward()
            grads = None if skipper is None else skipper.grads
            with wau.holding(optimizer, layers, active, grads):
                optimizer.step()
            optimizer.zero_grad()
        ends.append([param.detach() for param in model.parameters()])
    for end in ends[1:]:
        assert all(map(torch.equal, end, ends[0]))


@pytest.mark.parametrize('axis', ['out', 'layer'])
def test_hold_weight_is_told_that_gradients_were_skipped(axis, monkeypatch):
    monkeypatch.setattr('mmwau.core.narrow_convolution.MIN_SAVED', 0)
    monkeypatch.setattr('mmwau.core.narrow_convolution.BLOCK', 1)
    model = network()
    layers = find_layers(model, axis=axis)
    skipper, wau = HeldGradSkipper(model, layers), WAU(hold='weight')
    active = wau.select(layers, 0)
    with skipper.skipping(active):
        model(inputs()).square().mean().backward()
    with (
        pytest.raises(ValueError, match='but the HeldGradSkipper has skipped them'),
        wau.holding(sgd(model), layers, active, skipper.grads),
    ):
        pass


def test_a_parameter_that_a_hook_replaces_in_the_pass_stays():
    model = network(1)
    attached(model, **NONE)
    other = nn.Parameter(torch.zeros(6, 3, 3, 3))

    def replace(module, args):
        module.weight = other

    model[0].register_forward_pre_hook(replace)
    model(inputs())
    assert model[0].weight is other
    assert isinstance(model[0].bias, nn.Parameter)


def test_why_a_convolution_of_another_kind_is_computed_in_full():
    torch.manual_seed(0)
    model = nn.Sequential(DeformConv2dPack(3, 6, 3))
    optimizer, handle = attached(model, hold='grad', **NONE)
    train(model, optimizer, 1)
    reason = 'DeformConv2dPack brings no zeros, which are waited for'
    assert handle._updates.skipper.find_full() == {'0': reason}
