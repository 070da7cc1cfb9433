import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torchvision import models

from mmwau.analysis.filters import find_filters
from mmwau.overlap import filter_overlap, layer_overlap

NETWORKS = (
    'resnet50 resnext50_32x4d mobilenet_v2 densenet121 vgg16_bn convnext_tiny regnet_y_400mf '
    'shufflenet_v2_x1_0 inception_v3'
)


@pytest.mark.parametrize('name', NETWORKS.split())
def test_what_weights_show_agrees_with_the_model(name):
    model = models.get_model(name, **({'init_weights': False} if name == 'inception_v3' else {}))
    found, left_out = find_filters(model.state_dict())
    exact, exact_left_out = find_filters(model.state_dict(), model)
    for layer, filters in found.items():
        assert (filters.dim, filters.groups) == (exact[layer].dim, exact[layer].groups)
    # What is left out without the model is depthwise or grouped.
    assert exact_left_out.items() <= left_out.items()
    for layer in set(exact) - set(found):
        assert exact[layer].groups > 1
        assert 'may be grouped' in left_out[layer]


def test_groups_are_known_from_the_model():
    model = models.resnext50_32x4d()
    exact, _ = find_filters(model.state_dict(), model)
    assert exact['layer1.0.conv2'].groups == 32
    assert exact['layer1.0.conv2'].shape == (4, 4 * 9)


def test_depthwise_convolutions_are_left_out_with_and_without_the_model():
    model = models.mobilenet_v2()
    for found, left_out in (
        find_filters(model.state_dict()),
        find_filters(model.state_dict(), model),
    ):
        assert 'features.1.conv.0.0' not in found
        assert 'an input of its own (depthwise)' in left_out['features.1.conv.0.0']
        assert 'features.0.0' in found


def test_a_first_convolution_on_grey_images_is_measured():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8))
    found, left_out = find_filters(model.state_dict())
    assert (list(found), list(left_out)) == (['0'], ['1'])


@pytest.mark.parametrize(
    ('upsampling', 'name'),
    [
        (nn.ConvTranspose2d(8, 4, 2), 'up'),
        (nn.ConvTranspose2d(8, 5, 3), 'up'),  # its bias shows it
        (nn.ConvTranspose2d(8, 4, 2, bias=False), 'up'),
        (nn.ConvTranspose2d(8, 8, 2), 'up'),
        (nn.ConvTranspose2d(8, 8, 3, bias=False), 'deconv_layers'),  # its name shows it
        (nn.ConvTranspose2d(8, 8, 3, groups=2), 'up'),
    ],
)
def test_what_may_be_transposed_needs_the_model(upsampling, name):
    model = nn.ModuleDict({'conv': nn.Conv2d(3, 8, 3), name: upsampling})
    found, left_out = find_filters(model.state_dict())
    assert list(found) == ['conv']
    assert re.search('may be (transposed|grouped)', left_out[name])
    exact, left_out = find_filters(model.state_dict(), model)
    assert (exact[name].dim, exact[name].groups) == (1, upsampling.groups)
    assert not left_out


def test_filters_of_the_model_measure_as_its_layers_do():
    layers = {
        'up': nn.ConvTranspose2d(8, 6, 3, groups=2),
        'one': nn.Conv1d(6, 4, 3),
        'three': nn.Conv3d(6, 4, 3, groups=2),
    }
    model = nn.ModuleDict(layers)
    found, _ = find_filters(model.state_dict(), model)
    assert list(found) == list(layers)
    for name, filters in found.items():
        measured = filter_overlap(filters.weight, filters.dim, filters.groups)
        assert measured.mean().item() == layer_overlap(model[name])
    assert found['three'].shape == (2, 3 * 27)


def test_computed_weights_are_left_out_by_name():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        spectral_norm(nn.Conv2d(8, 8, 3)),
        parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
        weight_norm(nn.Conv2d(8, 8, 3)),
    )
    found, left_out = find_filters(model.state_dict())
    assert list(found) == ['0']
    assert list(left_out) == ['1', '2', '3']
    assert set(left_out.values()) == {'its weight is computed from other parameters'}


def test_a_model_that_does_not_fit_is_reported():
    weights = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).state_dict()
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3))
    found, left_out = find_filters(weights, other)
    assert list(found) == ['0']
    assert left_out == {'1': 'the model of the config has no such convolution'}


def test_linear_layers_and_norms_are_no_convolutions():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4), nn.Embedding(3, 2), nn.LSTM(3, 2))
    assert find_filters(model.state_dict()) == ({}, {})


def test_a_diverged_layer_is_left_out_by_name():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    nn.init.constant_(model[1].weight[2, 3], float('nan'))
    found, left_out = find_filters(model.state_dict())
    assert list(found) == ['0']
    assert left_out == {'1': 'it has values that are not finite: training diverged'}


def test_half_precision_is_measured_as_single():
    conv = nn.Conv2d(16, 8, 3)
    for dtype in (torch.float16, torch.bfloat16):
        found, _ = find_filters({'conv.weight': conv.weight.detach().to(dtype)})
        half = filter_overlap(found['conv'].weight)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, filter_overlap(conv.weight), atol=1e-3, rtol=0.05)
