import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmwau.overlap import filter_overlap, layer_overlap


def test_by_hand():
    # Filters (1, 0), (2, 0), (0, -1), (3, 3): |cosines| 1, 0 and 1/sqrt(2).
    weight = torch.tensor([[1.0, 0], [2, 0], [0, -1], [3, 3]]).reshape(4, 2, 1, 1)
    half = 0.5**0.5
    expected = torch.tensor([1 + half, 1 + half, half, 3 * half]) / 4
    torch.testing.assert_close(filter_overlap(weight), expected)


def test_orthogonal_filters_do_not_overlap_and_equal_ones_do_wholly():
    assert filter_overlap(torch.eye(8).reshape(8, 8, 1, 1)).eq(0).all()
    same = torch.ones(8, 3, 3, 3) * torch.arange(1, 9).reshape(8, 1, 1, 1)
    torch.testing.assert_close(filter_overlap(same), torch.full((8,), 7 / 8))


def test_a_filter_that_is_zero_overlaps_with_none():
    weight = torch.ones(3, 2, 1, 1)
    weight[1] = 0
    torch.testing.assert_close(filter_overlap(weight), torch.tensor([1 / 3, 0, 1 / 3]))


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
def test_agrees_with_numpy_in_float64_and_ignores_scale(filters, inputs, size, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(filters, inputs, size, size, generator=generator)
    rows = weight.double().flatten(1).numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = np.abs(rows @ rows.T - np.eye(filters)).sum(axis=1) / filters
    np.testing.assert_allclose(filter_overlap(weight).numpy(), expected, atol=2e-6)
    scaled = weight * torch.rand(filters, 1, 1, 1, generator=generator).add(0.1)
    np.testing.assert_allclose(filter_overlap(scaled).numpy(), expected, atol=2e-6)


@pytest.mark.parametrize('groups', [1, 2, 4])
def test_groups_are_measured_by_themselves(groups):
    conv = nn.Conv2d(8, 12, 3, groups=groups)
    parts = [filter_overlap(part) for part in conv.weight.chunk(groups)]
    torch.testing.assert_close(filter_overlap(conv.weight, groups=groups), torch.cat(parts))


@pytest.mark.parametrize('groups', [1, 2])
def test_transposed_convolution_is_measured_by_output_channel(groups):
    up = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    filters = torch.cat([part.transpose(0, 1) for part in up.weight.chunk(groups)])
    expected = filter_overlap(filters, groups=groups)
    torch.testing.assert_close(filter_overlap(up.weight, dim=1, groups=groups), expected)
    assert layer_overlap(up) == pytest.approx(expected.mean().item())
