"""What is frozen and unfrozen inside of an update, between its passes or before its step."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from mmwau import WAUOptimWrapper, attach
from mmwau.wau import SAMPLERS


def network(wrap=lambda module: module):
    torch.manual_seed(0)
    layers = []
    for place in range(6):
        layers += [wrap(nn.Conv2d(6 if place else 3, 6, 3, padding=1)), nn.BatchNorm2d(6)]
    return nn.Sequential(*layers)


def loss_of(model, update):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(update))
    return model(x).square().mean()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def selection(updates):
    return dict(zip(updates.layers, updates.active, strict=True))


@pytest.mark.parametrize('axis', ['out', 'layer'])
def test_a_bias_that_is_frozen_before_the_step_is_held(axis):
    model = network()
    optimizer = sgd(model)
    handle = attach(optimizer, model, axis=axis, seed=0)
    loss_of(model, 0).backward()
    handle._updates.start()
    name, mask = next(item for item in selection(handle._updates).items() if not item[1].all())
    bias = model.get_submodule(name).bias.requires_grad_(False)
    before = bias.detach().clone()
    optimizer.step()
    held = ~mask.expand(len(bias))
    assert torch.equal(bias[held], before[held])


@pytest.mark.parametrize('norm', [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_computed_weight_that_is_frozen_before_the_step_is_held(norm):
    model = network(norm)
    optimizer = sgd(model)
    handle = attach(optimizer, model, axis='layer', seed=0)
    loss_of(model, 0).backward()
    handle._updates.start()
    name = next(name for name, mask in selection(handle._updates).items() if not mask)
    module = model.get_submodule(name).requires_grad_(False)
    before = [tensor.clone() for tensor in module.state_dict().values()]
    optimizer.step()
    assert all(map(torch.equal, module.state_dict().values(), before))


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('place', [0, 4, 10])
def test_unfreezing_before_the_step_does_not_select_whole_layers_anew(sampler, place):
    model = network()
    model[place].requires_grad_(False)
    optimizer = sgd(model)
    handle = attach(optimizer, model, axis='layer', hold='state', sampler=sampler, seed=0)
    for update in range(5):
        loss_of(model, update).backward()
        selected = selection(handle._updates)
        if update == 2:
            model[place].requires_grad_(True)
        before = {name: model.get_submodule(name).weight.detach().clone() for name in selected}
        optimizer.step()
        optimizer.zero_grad()
        for name, mask in selected.items():
            assert torch.equal(before[name], model.get_submodule(name).weight) != bool(mask)


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('place', [0, 4, 10])
@pytest.mark.parametrize('unfreezes', [False, True])
def test_whole_layers_that_move_get_the_gradients_of_all_passes(sampler, place, unfreezes):
    model = network()
    model[place].requires_grad_(not unfreezes)
    wrapper = WAUOptimWrapper(
        sgd(model),
        axis='layer',
        hold='state',
        seed=0,
        sampler=sampler,
        targets='',
        accumulative_counts=2,
    )
    wrapper.initialize_count_status(model, 0, 10)
    for update in range(5):
        with wrapper.optim_context(model):
            loss = loss_of(model, 2 * update)
        wrapper.update_params(loss)
        first = selection(wrapper.updates)
        if update == 2:
            model[place].requires_grad_(unfreezes)
        with wrapper.optim_context(model):
            loss = loss_of(model, 2 * update + 1)
        second = dict(zip(wrapper.layers, wrapper.updates.skipped, strict=True))
        for name in first.keys() & second.keys():
            assert torch.equal(first[name], second[name])
        wrapper.update_params(loss)


def test_where_everything_is_frozen_no_part_is_active():
    model = network()
    optimizer = sgd(model)
    handle = attach(optimizer, model, axis='layer', seed=0)
    loss_of(model, 0).backward()
    optimizer.step()
    assert handle._updates.active_parts.keys() == {'filter', 'parameter'}
    for place in range(0, 12, 2):
        model[place].requires_grad_(False)
    loss_of(model, 1).backward()
    optimizer.step()
    assert handle.active_fraction is None
    assert handle._updates.active_parts == {}
