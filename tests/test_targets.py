import pytest
import torch
from torch import nn

from mmwau import WAU
from mmwau.targets import find_convolutions, find_layers, find_left_out
from mmwau.wau import HOLDS


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({f'layer{index}': nn.Conv2d(4, 6, 3) for index in (1, 2, 10)})
        self.neck = nn.Sequential(nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def test_prefixes_match_whole_segments():
    assert list(find_convolutions(Model(), 'backbone.layer1')) == ['backbone.layer1']
    assert list(find_convolutions(Model(), ('backbone', 'neck'))) == [
        'backbone.layer1',
        'backbone.layer2',
        'backbone.layer10',
        'neck.0',
    ]
    assert len(find_convolutions(Model())) == 4


def test_a_convolution_of_two_names_is_found_by_each_and_once():
    model = Model()
    model.features = model.backbone
    assert list(find_convolutions(model, 'features.layer1')) == ['features.layer1']
    assert list(find_convolutions(model, ('features', 'backbone.layer1'))) == [
        'backbone.layer1',
        'features.layer2',
        'features.layer10',
    ]
    assert list(find_convolutions(model)) == list(find_convolutions(Model()))


def test_no_match_is_an_error_with_names_that_exist():
    with pytest.raises(ValueError, match=r"'bakbone', 'nek'.*backbone, neck, head.*layer1"):
        find_convolutions(Model(), ('bakbone', 'nek'))


@pytest.mark.parametrize('targets', [None, 3, (), ('backbone', 3), {'backbone': 1}])
def test_targets_of_a_wrong_type_are_told(targets):
    with pytest.raises(TypeError, match=r"targets must be module-name prefixes such as \('backb"):
        find_convolutions(Model(), targets)


def test_unknown_axis_is_told():
    with pytest.raises(ValueError, match=r"axis must be one of 'out', 'in', 'layer', got 'both'"):
        find_layers(Model(), axis='both')


def test_filters_have_their_bias_and_input_channels_have_not():
    model = Model()
    weight, bias = model.backbone['layer1'].weight, model.backbone['layer1'].bias
    layer = find_layers(model, axis='out')['backbone.layer1']
    assert layer.name == 'backbone.layer1.weight'
    assert layer.num_slices == 6
    assert [(id(param), dim) for param, dim in layer.tensors] == [(id(weight), 0), (id(bias), 0)]
    layer = find_layers(model, axis='in')['backbone.layer1']
    assert layer.num_slices == 4
    assert [(id(param), dim) for param, dim in layer.tensors] == [(id(weight), 1)]


def test_filters_of_a_transposed_convolution_lie_on_dimension_1():
    up = nn.ConvTranspose2d(4, 6, 2)
    (layer,) = find_layers(up, axis='out').values()
    assert (layer.num_slices, layer.tensors[0][1]) == (6, 1)
    (layer,) = find_layers(up, axis='in').values()
    assert (layer.num_slices, layer.tensors[0][1]) == (4, 0)


def test_deformable_convolutions_of_mmcv_are_convolutions():
    from mmcv.ops import DeformConv2d, ModulatedDeformConv2dPack

    model = nn.ModuleDict(
        {'v1': DeformConv2d(4, 6, 3), 'v2': ModulatedDeformConv2dPack(4, 6, 3, padding=1)}
    )
    assert list(find_layers(model)) == ['v1', 'v2', 'v2.conv_offset']


def test_what_can_not_be_held_is_left_out_with_its_reason():
    from mmcv.ops import SAConv2d

    model = nn.ModuleDict(
        {
            'held': nn.Conv2d(4, 6, 3),
            'frozen': nn.Conv2d(4, 6, 3).requires_grad_(False),
            'other': nn.Conv2d(4, 6, 3),
            'grouped_up': nn.ConvTranspose2d(4, 6, 2, groups=2),
            'weight_norm': nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
            'spectral_norm': nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)),
            'switchable': SAConv2d(4, 6, 3),
            'lazy': nn.LazyConv2d(6, 3),
            'shared': nn.Conv2d(4, 6, 3),
        }
    )
    model['shared'].weight = model['held'].weight
    left_alone = {id(param) for param in model['other'].parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if id(p) not in left_alone], lr=1)
    of_switchable = [name for name, _ in model.named_modules() if name.startswith('switchable.')]
    of_switchable = [name for name in of_switchable if name in find_convolutions(model)]
    assert list(find_layers(model, optimizer=optimizer)) == ['held', *of_switchable]
    assert find_left_out(model, optimizer=optimizer) == {
        'frozen': 'frozen',
        'other': 'not updated by the optimizer',
        'grouped_up': 'grouped and transposed: its filters do not lie on one dimension',
        'weight_norm': 'its weight is computed from other parameters',
        'spectral_norm': 'its weight is computed from other parameters',
        'switchable': 'its filters have parameters besides weight and bias',
        'lazy': 'its weight has no shape before the first forward pass',
        'shared': 'shares the weight of a layer already held',
    }


@pytest.mark.parametrize('axis', ['out', 'in'])
def test_weights_laid_out_otherwise_are_left_out(axis):
    """Sparse convolutions have their kernel first, and their filters last."""
    from mmcv.ops import SparseConv3d, SparseConvTranspose2d

    sparse = {'sparse': SparseConv3d(4, 16, 3), 'up': SparseConvTranspose2d(4, 6, 2)}
    model = nn.ModuleDict({'held': nn.Conv2d(4, 6, 3), **sparse})
    assert list(find_layers(model, axis=axis)) == ['held']
    reason = 'its weight is not laid out as (filters, input channels, ...)'
    assert find_left_out(model, axis=axis) == dict.fromkeys(sparse, reason)


def test_a_computed_bias_is_no_part_of_a_filter():
    conv = nn.Conv2d(4, 6, 3)
    nn.utils.parametrize.register_parametrization(conv, 'bias', nn.Tanh())
    model = nn.ModuleDict({'held': nn.Conv2d(4, 6, 3), 'computed': conv})
    assert list(find_layers(model)) == ['held']
    assert find_left_out(model) == {'computed': 'its bias is computed from other parameters'}
    assert list(find_layers(model, axis='in')) == ['held', 'computed']
    assert list(find_layers(model, axis='layer')) == ['held', 'computed']


def test_nothing_but_frozen_layers_is_an_error():
    model = Model()
    model.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match=r"\('backbone',\) can be held \(backbone.layer1: frozen"):
        find_layers(model, 'backbone')


def test_a_frozen_bias_is_not_held_with_its_filter():
    conv = nn.Conv2d(4, 6, 3)
    conv.bias.requires_grad_(False)
    (layer,) = find_layers(conv).values()
    assert len(layer.tensors) == 1


class SharedBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.second.bias = self.first.bias

    def forward(self, x):
        return self.third(self.second(self.first(x)))


@pytest.mark.parametrize('hold', HOLDS)
@pytest.mark.parametrize('grads', [None, {}])
def test_a_bias_of_two_layers_belongs_to_the_first(hold, grads):
    """The other layer is not held: its active filters would have a bias that stands still."""
    torch.manual_seed(0)
    model = SharedBias()
    assert list(find_layers(model)) == ['first', 'third']
    assert find_left_out(model) == {'second': 'shares the bias of a layer already held'}
    assert list(find_layers(model, axis='in')) == ['first', 'second', 'third']
    layers = find_layers(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wau = WAU(hold=hold, rescale=True)
    model(torch.randn(2, 3, 6, 6)).square().mean().backward()
    bias, grad = model.first.bias.detach().clone(), model.first.bias.grad.clone()
    active = wau.select(layers, 0)
    with wau.holding(optimizer, layers, active, grads):
        optimizer.step()
    expected = torch.where(active[0], bias - 2 * 0.1 * grad, bias)
    torch.testing.assert_close(model.first.bias, expected)


def test_a_learning_rate_of_0_freezes_where_others_have_one():
    model = Model()
    groups = [
        dict(params=model.backbone.parameters(), lr=0.0),
        dict(params=model.neck.parameters()),
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    reasons = find_left_out(model, 'backbone', optimizer=optimizer)
    assert set(reasons.values()) == {'frozen by a learning rate of 0'}
    with pytest.raises(ValueError, match='frozen by a learning rate of 0'):
        find_layers(model, 'backbone', optimizer=optimizer)
    # A schedule that is at 0 now, and one for all.
    optimizer.param_groups[0]['initial_lr'] = 0.1
    assert not find_left_out(model, 'backbone', optimizer=optimizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    assert not find_left_out(model, 'backbone', optimizer=optimizer)
    # A schedule that has raised it.
    optimizer = torch.optim.SGD(groups, lr=0.1)
    optimizer.param_groups[0].update(initial_lr=0.0, lr=1e-5)
    assert not find_left_out(model, 'backbone', optimizer=optimizer)
