from functools import partial

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_classifier import CONFIG
from torch import nn
from torch.nn import functional

from mmwau.analysis.pruning import find_removable
from mmwau.analysis.taylor import taylor_criterion
from mmwau.analysis.training_loss import all_trainable, training_losses


class Network(nn.Module):
    """One convolution with a norm, one without, one that runs twice; the ReLU changes its input."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 4, 1)
        self.twice = nn.Conv2d(4, 4, 1)

    def forward(self, images):
        x = functional.relu_(self.norm(self.first(images)))
        x = functional.relu_(self.second(x))
        return self.twice(self.twice(x)).square().mean(dim=(1, 2, 3))


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = Network().double().eval()
    for tensor in (*model.norm.parameters(), *model.norm.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return model


def images(count=3):
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


def criterion(model):
    layers, _ = find_removable(model, ('',), lambda: model(images()))
    return taylor_criterion(model, layers, (model(image[None]).sum() for image in images()))


def normalised(values):
    return values / values.norm()


def plainly(model):
    """Equation 8 with loops, of the layers with one output, ReLUs that copy, all images at once."""
    maps = {}
    maps['first'] = model.norm(model.first(images()))
    maps['second'] = model.second(maps['first'].relu())
    last = model.twice(model.twice(maps['second'].relu()))
    loss = last.square().mean(dim=(1, 2, 3)).sum()
    found = {}
    for name, each in maps.items():
        (gradient,) = torch.autograd.grad(loss, each, retain_graph=True)
        scores = []
        for channel in range(each.shape[1]):
            total = 0.0
            for example in range(len(each)):
                places = zip(
                    each[example, channel].flatten().tolist(),
                    gradient[example, channel].flatten().tolist(),
                    strict=True,
                )
                products = [value * slope for value, slope in places]
                total += abs(sum(products) / len(products))
            scores.append(total / len(each))
        found[name] = normalised(torch.tensor(scores).double())
    return found


def test_it_is_what_the_paper_says_plainly(network):
    expected, measured = plainly(network), criterion(network)
    assert list(measured) == ['first', 'second', 'twice']
    for name, each in expected.items():
        torch.testing.assert_close(measured[name], each)


@pytest.mark.parametrize('name', ['norm', 'second', 'twice'])
def test_it_is_the_change_of_the_loss_when_a_map_becomes_a_little_smaller(network, name):
    step, changes = 1e-6, []
    for channel in range(network.get_submodule(name).weight.shape[0]):

        def scale(factor, module, inputs, output, channel=channel):
            factors = torch.ones(output.shape[1]).double()
            factors[channel] = factor
            return output * factors[:, None, None]

        losses = []
        for factor in (1 - step, 1 + step):
            handle = network.get_submodule(name).register_forward_hook(partial(scale, factor))
            losses.append(network(images()))
            handle.remove()
        changes.append(((losses[1] - losses[0]) / (2 * step)).abs().mean())
    measured = criterion(network)['first' if name == 'norm' else name]
    torch.testing.assert_close(
        measured, normalised(torch.stack(changes).detach()), rtol=1e-5, atol=1e-7
    )


def test_frozen_layers_count_and_stay_frozen(network):
    expected = criterion(network)
    network.first.requires_grad_(False)
    network.norm.requires_grad_(False)
    measured = criterion(network)
    assert all(torch.equal(measured[name], each) for name, each in expected.items())
    frozen = [name for name, param in network.named_parameters() if not param.requires_grad]
    assert frozen == ['first.weight', 'norm.weight', 'norm.bias']
    assert all(param.grad is None for param in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_layers_that_are_frozen_whenever_the_mode_is_set_count_too(network):
    expected = criterion(network)

    class Freezing(Network):
        def train(self, mode=True):
            super().train(mode)
            self.first.requires_grad_(False)
            return self

    freezing = Freezing().double()
    freezing.load_state_dict(network.state_dict())
    layers, _ = find_removable(freezing.eval(), ('',), lambda: freezing(images()))
    losses = (freezing.eval()(image[None]).sum() for image in images())
    measured = taylor_criterion(freezing, layers, losses)
    assert all(torch.equal(measured[name], each) for name, each in expected.items())
    assert not freezing.first.weight.requires_grad


def test_a_layer_without_influence_has_zeros(network):
    layers, _ = find_removable(network, ('',), lambda: network(images()))
    nothing = (network(image[None]).sum() * 0 for image in images())
    for each in taylor_criterion(network, layers, nothing).values():
        assert each.eq(0).all()


def test_a_loss_that_is_no_number_has_no_order(network):
    layers, _ = find_removable(network, ('',), lambda: network(images()))
    losses = (factor * network(images()).sum() for factor in (1, float('nan')))
    with pytest.raises(ValueError, match='gradients of the loss are not finite in first'):
        taylor_criterion(network, layers, losses)


def test_a_layer_that_no_gradient_reaches_is_named(network):
    layers, _ = find_removable(network, ('',), lambda: network(images()))
    network.norm.forward = torch.no_grad()(network.norm.forward)
    losses = (network(images()).sum() for _ in range(1))
    with pytest.raises(ValueError, match=r'No gradient reaches the output of first.*with_cp'):
        taylor_criterion(network, layers, losses)
    assert not network.norm._forward_hooks


def test_frozen_again_by_name_though_replaced(network):
    network.first.requires_grad_(False)
    with all_trainable(network):
        network.first.weight = nn.Parameter(network.first.weight.detach()[:2])
        assert all(param.requires_grad for param in network.parameters())
    assert not network.first.weight.requires_grad
    assert network.second.weight.requires_grad


def test_losses_are_those_of_images_spread_over_the_training_data(tmp_path):
    cfg = Config.fromstring(CONFIG, '.py')
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    data = runner.train_dataloader.dataset
    data.noise = 0.0
    losses = [loss.item() for loss in training_losses(runner, 4)]
    # Images 0, 4, 8 and 12 of 16, which all have the first class.
    image = data[0]['inputs'][None]
    expected = runner.model(image, torch.tensor([0]), mode='loss')['loss'].item()
    assert losses == pytest.approx([expected] * 4)
    assert not runner.model.training
    assert [len(list(training_losses(runner, count))) for count in (9, 15, 99)] == [9, 15, 16]
    # Augmentation by chance is the same each time.
    data.noise = 0.1
    both = [[loss.item() for loss in training_losses(runner, 3)] for _ in range(2)]
    assert both[0] == both[1]
    assert len(set(both[0])) == 3
