import math
import subprocess
import sys
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mmwau.overlap import (
    cosine_matrix,
    expected_overlap,
    filter_overlap,
    largest_cosine,
    layer_overlap,
    mean_overlap,
    measure,
    measure_random,
    shape_of_filters,
    spectral_entropy,
)


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


SCALES = (1e-43, 1e-40, 1e-30, 1e-13, 1e13, 1e20, 1e37)


@pytest.mark.parametrize('scale', SCALES)
def test_measures_do_not_mind_how_small_or_large_all_values_are(scale):
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    # Below float32's normal range few digits are left of a value.
    close = 0.03 if scale < 1e-38 else 1e-4
    scaled = weight * scale
    assert astuple(measure(scaled)) == pytest.approx(astuple(measure(weight)), rel=close)
    torch.testing.assert_close(cosine_matrix(scaled), cosine_matrix(weight), rtol=close, atol=close)


@pytest.mark.parametrize('scale', [1e-300, 1e300])
def test_filters_in_double_precision_keep_their_directions(scale):
    weight = torch.randn(5, 9, dtype=torch.float64)
    assert astuple(measure(weight * scale)) == pytest.approx(astuple(measure(weight)), rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_filters_in_half_precision_are_measured_as_their_values_are(dtype):
    weight = (torch.randn(5, 9) * (1e-5 if dtype is torch.float16 else 1e-30)).to(dtype)
    assert measure(weight) == measure(weight.float())


def test_filters_of_different_scales_overlap_by_their_directions():
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    scaled = weight * torch.tensor([1e-40, 1e-20, 1e-13, 1.0, 1e15, 1e37])[:, None]
    torch.testing.assert_close(filter_overlap(scaled), filter_overlap(weight), rtol=1e-3, atol=0)
    torch.testing.assert_close(largest_cosine(scaled), largest_cosine(weight), rtol=1e-3, atol=0)


def test_a_filter_that_is_not_finite_has_no_overlap():
    weight = torch.ones(3, 4)
    weight[1, 2] = math.inf
    assert filter_overlap(weight).isnan().all()


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


def test_largest_cosine_by_hand():
    # Filters (1, 0), (2, 0), (0, -1), (3, 3): the first two are copies.
    weight = torch.tensor([[1.0, 0], [2, 0], [0, -1], [3, 3]]).reshape(4, 2, 1, 1)
    half = 0.5**0.5
    expected = torch.tensor([1, 1, half, half])
    torch.testing.assert_close(largest_cosine(weight), expected)
    torch.testing.assert_close(cosine_matrix(weight)[0].amax(dim=1), expected)
    assert cosine_matrix(weight).diagonal(dim1=1, dim2=2).eq(0).all()


def test_spectral_entropy_by_hand():
    # Unit filters a, a, b with b orthogonal to a: singular values sqrt(2), 1, 0.
    weight = torch.tensor([[1.0, 0, 0], [5, 0, 0], [0, 2, 0]])
    first = 2**0.5 / (2**0.5 + 1)
    entropy = -first * math.log(first) - (1 - first) * math.log(1 - first)
    relative, rank = spectral_entropy(weight)
    assert relative == pytest.approx(entropy / math.log(3))
    assert rank == pytest.approx(math.exp(entropy))


@pytest.mark.parametrize('filters', [2, 5, 8])
def test_copies_have_rank_one_and_orthogonal_filters_full_rank(filters):
    copies = torch.arange(1.0, filters + 1)[:, None] * torch.ones(9)
    assert spectral_entropy(copies) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-4))
    assert largest_cosine(copies).tolist() == pytest.approx([1] * filters)
    relative, rank = spectral_entropy(torch.eye(filters, 9))
    assert (relative, rank) == (pytest.approx(1), pytest.approx(filters))
    assert largest_cosine(torch.eye(filters, 9)).eq(0).all()


def test_zero_filters_have_no_rank():
    assert spectral_entropy(torch.zeros(3, 4)) == (0, 0)


SHAPES = (st.integers(2, 7), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))


@given(*SHAPES)
def test_all_measures_agree_with_numpy_in_float64(filters, inputs, size, seed):
    weight = torch.randn(filters, inputs, size, size, generator=torch.Generator().manual_seed(seed))
    rows = weight.double().flatten(1).numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.abs(rows @ rows.T)
    np.fill_diagonal(cosines, 0)
    values = np.linalg.svd(rows, compute_uv=False)
    shares = values / values.sum()
    entropy = -sum(share * np.log(share) for share in shares if share > 0)
    measured = measure(weight, duplicate_cosine=0.3)
    assert measured.overlap == pytest.approx(cosines.sum(axis=1).mean() / filters, abs=1e-5)
    assert measured.largest_cosine == pytest.approx(cosines.max(axis=1).mean(), abs=1e-5)
    assert measured.effective_rank == pytest.approx(np.exp(entropy), rel=1e-4)
    largest = np.log(len(values))
    assert measured.spectral_entropy == pytest.approx(entropy / largest if largest else 1, abs=1e-4)
    assert measured.near_duplicates == pytest.approx((cosines.max(axis=1) >= 0.3).mean())


@given(*SHAPES)
def test_no_measure_minds_the_scale_sign_and_order_of_filters(filters, inputs, size, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(filters, inputs, size, size, generator=generator)
    scale = torch.rand(filters, 1, 1, 1, generator=generator).add(0.1)
    scale[::2] *= -1
    order = torch.randperm(filters, generator=generator)
    changed = (weight * scale)[order]
    assert astuple(measure(changed)) == pytest.approx(astuple(measure(weight)), abs=1e-4)
    torch.testing.assert_close(filter_overlap(changed), filter_overlap(weight)[order])
    torch.testing.assert_close(largest_cosine(changed), largest_cosine(weight)[order])


@pytest.mark.parametrize(('dim', 'groups'), [(0, 1), (0, 3), (1, 1), (1, 2)])
def test_measures_of_groups_are_means_of_the_groups(dim, groups):
    weight = torch.randn(6, 12, 3, 3)
    parts = weight.chunk(groups)
    parts = [part.transpose(0, 1) for part in parts] if dim else parts
    each = [astuple(measure(part, duplicate_cosine=0.2)) for part in parts]
    expected = [sum(column) / groups for column in zip(*each, strict=True)]
    measured = measure(weight, dim, groups, duplicate_cosine=0.2)
    assert astuple(measured) == pytest.approx(expected, rel=1e-5)
    count, values = parts[0].flatten(1).shape
    assert shape_of_filters(weight, dim, groups) == (count, values)


@pytest.mark.parametrize(
    ('weight', 'conv'),
    [((4, 6, 5), nn.Conv1d(6, 4, 5)), ((4, 6, 2, 3, 3), nn.Conv3d(6, 4, (2, 3, 3)))],
)
def test_convolutions_of_one_and_three_dimensions(weight, conv):
    assert conv.weight.shape == weight
    assert layer_overlap(conv) == pytest.approx(
        filter_overlap(conv.weight.flatten(1)).mean().item()
    )


@pytest.mark.parametrize(('filters', 'values'), [(2, 1), (8, 3), (64, 27), (256, 576), (512, 64)])
def test_expected_overlap_is_that_of_filters_drawn_at_random(filters, values):
    generator = torch.Generator().manual_seed(1)
    drawn = [
        filter_overlap(torch.randn(filters, values, generator=generator)).mean().item()
        for _ in range(max(3, 4000 // filters))
    ]
    assert sum(drawn) / len(drawn) == pytest.approx(expected_overlap(filters, values), rel=0.02)


def test_expected_cosine_in_two_dimensions_is_two_over_pi():
    # The mean of |cos| of an angle that is equally likely everywhere.
    assert expected_overlap(2, 2) == pytest.approx(2 / math.pi / 2)


def test_random_baseline_is_repeatable_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first = measure_random(6, 12)
    measure_random.cache_clear()
    assert measure_random(6, 12) == first
    assert torch.get_rng_state().equal(state)
    assert 0.3 < first.largest_cosine < 0.7
    assert 5 < first.effective_rank < 6


def test_thousands_of_filters_in_bounded_memory():
    # The whole matrix of cosines would be 576 MiB; blocks of it are 48 MiB.
    script = (
        'import resource, torch\n'
        'from mmwau.overlap import filter_overlap, largest_cosine\n'
        'weight = torch.randn(12288, 64, 1, 1)\n'
        'filter_overlap(weight[:1024])\n'
        'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n'
        'overlap = filter_overlap(weight)\n'
        'largest = largest_cosine(weight)\n'
        'print(overlap.mean().item(), largest.max().item())\n'
        'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    values, grown = done.stdout.splitlines()
    overlap, largest = map(float, values.split())
    assert overlap == pytest.approx(expected_overlap(12288, 64), rel=0.01)
    assert 0.4 < largest < 0.9
    assert int(grown) < 300 * 1024  # KiB


def test_blocks_join_to_the_whole():
    weight = torch.randn(2500, 20)
    rows = torch.nn.functional.normalize(weight)
    cosines = (rows @ rows.T).abs().fill_diagonal_(0)
    torch.testing.assert_close(filter_overlap(weight), cosines.sum(dim=1) / 2500)
    torch.testing.assert_close(largest_cosine(weight), cosines.amax(dim=1))


def test_mean_of_network_and_stages():
    layers = {'backbone.layer1.0.conv': 0.1, 'backbone.layer1.1.conv': 0.3}
    layers |= {'backbone.layer10.0': 0.5, 'neck': 0.7}
    assert mean_overlap(layers) == {
        'overlap': pytest.approx(0.4),
        'stage_overlap/backbone.layer1': pytest.approx(0.2),
        'stage_overlap/backbone.layer10': 0.5,
        'stage_overlap/neck': 0.7,
    }
