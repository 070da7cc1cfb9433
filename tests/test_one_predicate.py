"""Everything that looks at filters leaves out the same convolutions, for the same reasons."""

import pytest
import torch
from mmcv.ops import SAConv2d, SparseConv3d
from torch import nn
from torch.nn.utils import parametrizations

from mmwau.analysis.filters import find_filters
from mmwau.analysis.pruning import find_removable
from mmwau.comparison.weights import find_weights
from mmwau.targets import GROUPED, NO_SHAPE, find_left_out, why_no_filters

KINDS = {
    'computed': (
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
        'its weight is computed from other parameters',
    ),
    'lazy': (lambda: nn.LazyConv2d(6, 3), NO_SHAPE),
    'switchable': (
        lambda: SAConv2d(4, 6, 3),
        'its filters have parameters besides weight and bias',
    ),
    'sparse': (
        lambda: SparseConv3d(4, 16, 3),
        'its weight is not laid out as (filters, input channels, ...)',
    ),
    'grouped': (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), GROUPED),
    'plain': (lambda: nn.Conv2d(4, 6, 3), ''),
}


@pytest.fixture(params=KINDS)
def case(request):
    make, reason = KINDS[request.param]
    return nn.ModuleDict({'one': make(), 'other': nn.Conv2d(3, 4, 3)}), reason


def test_says_why(case):
    model, reason = case
    assert why_no_filters(model['one']) == reason


def test_what_is_held(case):
    model, reason = case
    assert find_left_out(model).get('one', '') == reason


def test_what_can_be_removed(case):
    model, reason = case
    found, left_out = find_removable(model, '', lambda: model['other'](torch.zeros(1, 3, 8, 8)))
    expected = reason or 'takes no part in the forward pass on the test data'
    assert left_out['one'] == expected
    assert list(found) == ['other']


def test_what_is_kept_orthogonal_or_sparse(case):
    model, reason = case
    assert ('one' in find_weights(model)) == (reason in ('', GROUPED))


def test_what_is_measured_in_a_checkpoint(case):
    model, reason = case
    weights = {
        name: param
        for name, param in model.state_dict().items()
        if not isinstance(param, nn.UninitializedParameter)
    }
    found, left_out = find_filters(weights, model)
    assert 'other' in found
    assert ('one' in found) == (reason in ('', GROUPED))
    if reason not in ('', GROUPED, NO_SHAPE):
        assert left_out['one'] == reason
