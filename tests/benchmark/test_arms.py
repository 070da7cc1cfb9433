"""Every arm trains in the way that it is named after."""

import copy
import random

import pytest
import torch
from small_network import small_network
from torch import nn

from mmwau.benchmark.arms import (
    ARMS,
    PHASES,
    PROCESSOR,
    SGD_OPTIONS,
    STEP_ARMS,
    WALL,
    BenchmarkTrainer,
)
from mmwau.benchmark.networks import CLASSIFIERS, NETWORKS, build_network
from mmwau.benchmark.peers import AuthorsSGD, freeze_first_layers
from mmwau.targets import find_convolutions

# How many of 256 filters, or which of the two layers, move in the first step.
MOVED = {
    'baseline': 256,
    'weight 0.5': 128,
    'filters 0.5': 128,
    'filters 0.25': 64,
    'first stages frozen': 256,
    'layer freezing': 256,
    "authors' loop": 256,
    'state 0.5': 128,
    'grad 0.5': 256,  # weight decay moves what is held
}


def moved(trainer, network, layer):
    change = trainer.model[layer].weight.ne(network.model[layer].weight)
    return change.flatten(1).any(dim=1).sum()


@pytest.mark.parametrize('arm', ARMS)
def test_every_arm_trains_from_the_same_start_and_holds_what_it_says(arm):
    network = small_network()
    trainer = BenchmarkTrainer(arm, network)
    seconds = trainer.step()
    assert set(seconds) == {*PHASES, WALL, PROCESSOR}
    assert seconds[WALL] == pytest.approx(sum(seconds[phase] for phase in PHASES))
    if arm.startswith('layers'):
        first, second = moved(trainer, network, 0), moved(trainer, network, 2)
        assert sorted([first / 64, second / 256]) == [0, 1]
    else:
        assert moved(trainer, network, 2) == MOVED[arm]
    if arm in ('first stages frozen', 'layer freezing'):
        assert moved(trainer, network, 0) == 0


def test_networks_are_trained_in_all_arms_but_those_of_other_sections():
    assert list(ARMS)[: len(STEP_ARMS)] == list(STEP_ARMS)
    assert [ARMS[arm].update_ratio for arm in ('baseline', 'layers 0.25')] == [None, 0.25]


def test_authors_loop_moves_drawn_input_channels_as_sgd_would():
    torch.manual_seed(0)
    start = nn.Sequential(nn.Conv2d(64, 32, 3), nn.Conv2d(32, 8, 3, groups=8), nn.Conv2d(8, 1, 1))
    x = torch.randn(1, 64, 6, 6)
    ours, dense = copy.deepcopy(start), copy.deepcopy(start)
    optimizers = [
        AuthorsSGD(ours.parameters(), 0.5, SGD_OPTIONS),
        torch.optim.SGD(dense.parameters(), **SGD_OPTIONS),
    ]
    state = random.getstate()
    for model, optimizer in zip((ours, dense), optimizers, strict=True):
        model(x).square().mean().backward()
        optimizer.step()
    assert random.getstate() == state
    for name, param in ours.named_parameters():
        before, plain = start.get_parameter(name), dense.get_parameter(name)
        if param.dim() == 4:
            held = param.eq(before).movedim(1, 0).flatten(1).all(dim=1)
            # With replacement: fewer than half of the channels, but some.
            assert 0 < (~held).sum() <= param.size(1) / 2
            assert torch.equal(param[:, held], before[:, held])
            torch.testing.assert_close(param[:, ~held], plain[:, ~held])
        else:
            torch.testing.assert_close(param, plain)
        buffers = [
            optimizer.state[own]['momentum_buffer']
            for optimizer, own in zip(optimizers, (param, plain), strict=True)
        ]
        torch.testing.assert_close(*buffers)
    assert int(ours[0].weight.ne(start[0].weight).movedim(1, 0).flatten(1).any(1).sum()) < 32


def test_a_depthwise_convolution_never_moves_in_the_authors_loop():
    conv = nn.Conv2d(4, 4, 3, groups=4)
    before = conv.weight.clone()
    optimizer = AuthorsSGD(conv.parameters(), 0.5, SGD_OPTIONS)
    conv(torch.randn(1, 4, 5, 5)).sum().backward()
    optimizer.step()
    assert torch.equal(conv.weight, before)


def test_layer_freezing_freezes_the_first_layers_and_never_the_last():
    def frozen(fraction):
        model = nn.Sequential(
            nn.Conv2d(1, 1, 1),
            nn.Sequential(nn.Linear(1, 1), nn.ReLU()),
            nn.Linear(1, 1),
            nn.Linear(1, 1),
        )
        freeze_first_layers(model, fraction)
        return [not param.requires_grad for param in model.parameters()][::2]

    assert frozen(0) == [False] * 4
    assert frozen(0.5) == [True, True, False, False]
    assert frozen(1) == [True, True, True, False]


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_first_stages_have_some_convolutions_and_not_all(name):
    model, _, _, _, first_stages = build_network(name, torch.device('cpu'))
    for prefix in first_stages:
        assert model.get_submodule(prefix) is not None
    assert 0 < len(find_convolutions(model, first_stages)) < len(find_convolutions(model))


def test_an_unknown_network_is_reported():
    assert len(NETWORKS) == 7
    with pytest.raises(ValueError, match=r"networks must be some of resnet50, .*got 'vgg'"):
        build_network('vgg', torch.device('cpu'))
