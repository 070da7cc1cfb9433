import pytest
import torch
from detection import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmwau.analysis.pruning import find_removable, removal_order, removed
from mmwau.analysis.shrinking import check_installed, shrink

pytest.importorskip('torch_pruning')


def images():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def randomised(model):
    """The model, with statistics and biases that are not 0 and 1."""
    torch.manual_seed(1)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.data.uniform_(0.5, 1.5)
    return model.eval()


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
    )


class Residual(nn.Module):
    """Two convolutions whose outputs are added, one in between that is on its own."""

    def __init__(self, groups=1):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, 8, 1)
        self.last = nn.Conv2d(8, 6, 1, groups=groups)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.outer(self.norm(self.inner(x)).relu())
        return self.last(x.relu())


def layers_of(model, targets=('',)):
    return find_removable(model, targets, lambda: model(images()))[0]


def orders_of(layers, order='l1'):
    return {name: removal_order(layer, order) for name, layer in layers.items()}


def shrink_by(model, ranked, fraction):
    return shrink(model, lambda: model(images()).square().sum(), ranked, fraction)


def shapes(model):
    return {name: tuple(param.shape) for name, param in model.named_parameters()}


def test_outputs_are_those_with_the_same_filters_at_zero():
    model = randomised(plain())
    layers = layers_of(model)
    ranked = orders_of(layers)
    with removed(layers, {name: order[: len(order) // 2] for name, order in ranked.items()}):
        expected = model(images())
    assert shrink_by(model, ranked, 0.5) == {}
    assert shapes(model) == {
        '0.weight': (4, 3, 3, 3),
        '1.weight': (4,),
        '1.bias': (4,),
        '3.weight': (3, 4, 3, 3),
        '3.bias': (3,),
        '6.weight': (5, 48),
        '6.bias': (5,),
    }
    assert model[1].running_var.shape == (4,)
    torch.testing.assert_close(model(images()), expected)


def test_coupled_layers_lose_the_same_filters_by_their_mean_rank():
    model = randomised(Residual())
    ranked = orders_of(layers_of(model))
    ranked['stem'] = [0, 1, 2, 3, 4, 5, 6, 7]
    ranked['outer'] = [1, 7, 6, 5, 4, 3, 2, 0]  # mean ranks 3.5, 0.5, 4, 4, 4, 4, 4, 4
    stem, outer = model.stem.weight.clone(), model.outer.weight.clone()
    ranked.pop('last')
    assert shrink_by(model, ranked, 0.25) == {}
    kept = ranked['inner'][1:]
    torch.testing.assert_close(model.stem.weight, stem[2:])
    torch.testing.assert_close(model.outer.weight, outer[2:][:, sorted(kept)])
    assert model.last.weight.shape == (6, 6, 1, 1)
    assert model.inner.weight.shape == (3, 6, 3, 3)


def test_one_filter_stays_and_no_fraction_changes_nothing():
    model = randomised(Residual())
    ranked = orders_of(layers_of(model))
    before, output = shapes(model), model(images())
    shrink_by(model, ranked, 0.0)
    assert shapes(model) == before
    assert torch.equal(model(images()), output)
    shrink_by(model, ranked, 0.99)
    assert {shape[0] for shape in shapes(model).values()} == {1}


def test_what_was_frozen_stays_frozen():
    class Freezing(Residual):
        def train(self, mode=True):
            super().train(mode)
            self.stem.requires_grad_(False)
            return self

    model = randomised(Freezing())
    assert not shrink_by(model, orders_of(layers_of(model)), 0.5)
    assert model.stem.weight.shape[0] == 4
    trains = {name: param.requires_grad for name, param in model.named_parameters()}
    assert [name for name in trains if not trains[name]] == ['stem.weight', 'stem.bias']


def test_layers_that_keep_all_filters_are_named_with_reasons():
    model = randomised(Residual(groups=2))
    ranked = orders_of(layers_of(model))
    left_out = shrink_by(model, ranked, 0.5)
    assert sorted(left_out) == ['last', 'outer', 'stem']
    assert set(left_out.values()) == {'its channels are in groups in last'}
    assert model.inner.weight.shape == (2, 8, 3, 3)
    # The outputs of the two are added, and one may lose none.
    ranked = orders_of(layers_of(randomised(Residual()), ['stem', 'inner']))
    left_out = shrink_by(randomised(Residual()), ranked, 0.5)
    assert list(left_out) == ['stem']
    assert left_out['stem'].startswith('it is coupled with a layer that may lose none')


def test_no_layer_is_an_error_with_reasons():
    ranked = orders_of(layers_of(randomised(Residual()), ['stem']))
    with pytest.raises(ValueError, match=r'No filters can be removed for good \(stem: it is coup'):
        shrink_by(randomised(Residual()), ranked, 0.5)


def test_a_network_with_layers_that_are_not_known_is_an_error():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.scales = torch.linspace(1, 2, 8)

        def forward(self, x):
            return self.conv(x) * self.scales[:, None, None]

    with pytest.raises(ValueError, match=r'does not run without.*--targets(?s:.*)must match'):
        shrink_by(Fixed(), {'conv': range(8)}, 0.5)


def test_a_network_that_asserts_its_channels_is_an_error():
    class Asserting(nn.Sequential):
        def forward(self, x):
            x = super().forward(x)
            assert x.shape[1] == 8
            return x

    with pytest.raises(ValueError, match=r'does not run without.*--targets'):
        shrink_by(Asserting(nn.Conv2d(3, 8, 1)), {'0': range(8)}, 0.5)


def test_what_was_one_parameter_stays_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.one, self.other = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
            self.other.weight = self.one.weight

        def forward(self, x):
            x = self.conv(x).relu()
            return self.one(x) - 2 * self.other(x)

    model = Tied()
    shrink_by(model, {'conv': range(8)}, 0.5)
    assert model.other.weight is model.one.weight
    # 3 × 4 weights and 4 biases; 4 × 4 weights, once, and two times 4 biases.
    assert sum(param.numel() for param in model.parameters()) == 16 + 16 + 8


def test_one_parameter_that_would_lose_different_parts_is_an_error():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.other(self.one(x).relu())

    with pytest.raises(ValueError, match=r'one.weight and other.weight are one parameter, and'):
        shrink_by(Chain(), {'one': range(3)}, 0.5)


def test_layers_that_run_for_nothing_read_fewer_channels_too():
    class Wasteful(nn.Sequential):
        def forward(self, x):
            x = self[0](x)
            self[2](self[1](x)).relu_()
            return x

    model = Wasteful(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    assert shrink_by(model, orders_of(layers_of(model)), 0.5) == {}
    assert [each.weight.shape[:2] for each in model] == [(4, 3), (2, 4), (2,)]


def test_depthwise_convolutions_lose_the_channels_that_they_no_longer_get():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)
    )
    ranked = orders_of(layers_of(model))
    assert shrink_by(model, ranked, 0.5) == {}
    assert [each.weight.shape[:2] for each in model] == [(4, 3), (4, 1), (3, 4), (1, 3)]
    assert model[1].groups == 4


@pytest.mark.parametrize('name', ['resnet20', 'vgg19bn', 'densenet40_12'])
def test_networks_of_the_experiments(name):
    cfg = Config.fromfile(ROOT / 'configs' / 'cifar' / f'{name}_cifar10.py')
    model = MODELS.build(dict(cfg.model, _scope_='mmpretrain')).eval()
    inputs = torch.randn(1, 3, 32, 32)

    def compute_loss():
        return model(inputs, mode='tensor')[0].square().sum()

    layers, _ = find_removable(model, ['backbone'], compute_loss)
    before = sum(param.numel() for param in model.parameters())
    left_out = shrink(model, compute_loss, orders_of(layers), 0.5)
    after = sum(param.numel() for param in model.parameters())
    assert not left_out
    # Of most tensors half of two dimensions goes.
    assert 0.2 < after / before < 0.35
    assert all(shape[0] > 1 for name, shape in shapes(model).items() if 'backbone' in name)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr('mmwau.analysis.shrinking.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'mmwau\[pruning\]'"):
        check_installed()
