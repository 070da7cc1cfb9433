from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

from mmwau.features import Moments, channel_overlap, compare_features, linear_cka, match_channels


def moments(first, second):
    sums = Moments(first.shape[1], second.shape[1])
    for parts in zip(first.split(7), second.split(7), strict=True):  # as if from batches
        sums.add(*parts)
    return sums.covariance()


def test_covariance_of_batches_is_that_of_numpy():
    values = torch.randn(50, 6) * 3 + 100
    expected = np.cov(values.double().numpy(), rowvar=False, bias=True)
    np.testing.assert_allclose(moments(values, values).numpy(), expected, rtol=1e-6)


def test_channel_overlap_by_hand_and_as_numpy():
    # The second channel is the first one mirrored, the third has nothing to do with them.
    values = torch.tensor([[1.0, -2, 1], [-1, 2, 1], [1, -2, -1], [-1, 2, -1]])
    overlap = channel_overlap(moments(values, values))
    torch.testing.assert_close(overlap, torch.tensor([1, 1, 0], dtype=torch.float64) / 3)
    values = torch.randn(200, 8) @ torch.randn(8, 8)
    expected = np.abs(np.corrcoef(values.double().numpy(), rowvar=False)) - np.eye(8)
    measured = channel_overlap(moments(values, values))
    np.testing.assert_allclose(measured.numpy(), expected.sum(axis=1) / 8, rtol=1e-6)


def test_a_constant_channel_overlaps_with_none():
    values = torch.randn(30, 3)
    values[:, 1] = 5
    overlap = channel_overlap(moments(values, values))
    assert overlap[1] == 0
    assert overlap.isfinite().all()


@pytest.mark.parametrize('scales', [(1, 1e-9, 1e9, 1), (1e-20,) * 4, (1e30,) * 4])
def test_channel_overlap_and_cka_do_not_mind_the_scale_of_channels(scales):
    values = torch.randn(200, 4).double() @ torch.randn(4, 4).double()
    scaled = (values * torch.tensor(scales, dtype=torch.float64)).float()
    expected = channel_overlap(moments(values, values))
    torch.testing.assert_close(channel_overlap(moments(scaled, scaled)), expected)
    if len(set(scales)) == 1:
        assert cka(values, scaled) == pytest.approx(1)


def test_channels_that_vary_little_about_a_large_mean_keep_their_correlation():
    values = torch.randn(100, 3).double() @ torch.randn(3, 3).double()
    far = values * 1e-7 + 1e5
    torch.testing.assert_close(
        channel_overlap(moments(far, far)),
        channel_overlap(moments(values, values)),
        rtol=1e-3,
        atol=1e-3,
    )


def test_channel_overlap_does_not_mind_a_batch_norm():
    values = torch.randn(100, 4) @ torch.randn(4, 4)
    normed = nn.BatchNorm1d(4)
    nn.init.normal_(normed.weight)
    nn.init.normal_(normed.bias)
    after = normed(values).detach()
    torch.testing.assert_close(
        channel_overlap(moments(after, after)),
        channel_overlap(moments(values, values)),
        rtol=1e-4,
        atol=1e-5,
    )


def cka(first, second):
    return linear_cka(moments(first, second), moments(first, first), moments(second, second))


def test_cka_is_one_for_rotated_and_scaled_features_and_small_for_others():
    values = torch.randn(500, 5, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert cka(values, 3 * values @ rotation + 7) == pytest.approx(1)
    assert cka(values, torch.randn(500, 5, dtype=torch.float64)) < 0.1


def test_cka_is_that_of_the_centred_gram_matrices():
    # HSIC with linear kernels, as 1905.00414 defines it first.
    first, second = torch.randn(40, 5).double(), torch.randn(40, 3).double()
    second[:, 0] = first[:, 0]
    centre = torch.eye(40, dtype=torch.float64) - 1 / 40
    grams = [centre @ values @ values.T @ centre for values in (first, second)]
    expected = (grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm())
    assert cka(first, second) == pytest.approx(expected.item())


def match(first, second):
    return match_channels(moments(first, second), moments(first, first), moments(second, second))


def test_channels_in_another_order_match_their_copies():
    values = torch.randn(300, 6) @ torch.randn(6, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    scales = torch.tensor([1e-3, 1.0, 2.0, 7.0, 1e3, 0.5])
    correlation, partners = match(values[:, order] * scales + 5, values)
    assert correlation == pytest.approx(1)
    assert partners == order.tolist()
    # A rotation, which CKA forgives, is no order.
    rotated = values @ torch.linalg.qr(torch.randn(6, 6)).Q
    assert match(values, rotated)[0] < 0.95


def test_no_other_pairs_correlate_more():
    first, second = torch.randn(40, 4).double(), torch.randn(40, 5).double()
    second[:, :4] -= first
    correlations = np.corrcoef(first.numpy(), second.numpy(), rowvar=False)[:4, 4:]
    sums = {
        partners: correlations[range(4), partners].sum() for partners in permutations(range(5), 4)
    }
    best = max(sums, key=sums.get)
    correlation, partners = match(first, second)
    assert partners == list(best)
    assert correlation == pytest.approx(sums[best] / 4)


def test_channels_of_noise_match_by_chance_alone():
    # The largest of n correlations of noise is about sqrt(2 log(n) / positions).
    first, second = torch.randn(2, 2000, 64)
    chance = (2 * np.log(64) / 2000) ** 0.5
    assert 0.6 * chance < match(first, second)[0] < 1.1 * chance


def test_values_that_are_no_numbers_match_nothing():
    own, broken = torch.eye(2).double(), torch.full((2, 2), float('nan')).double()
    mean, partners = match_channels(broken, own, own)
    assert mean != mean
    assert partners == []


def test_a_constant_channel_matches_none():
    values = torch.randn(30, 3)
    still = values.clone()
    still[:, 1] = 5
    assert match(values, still)[0] == pytest.approx(2 / 3)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.shared = nn.Conv2d(4, 4, 1)
        self.unused = nn.Conv2d(4, 2, 1)

    def forward(self, inputs):
        return self.shared(self.shared(self.conv(inputs)))


def test_networks_are_compared_on_the_same_images():
    models = {'one': Network(), 'same': Network(), 'other': Network()}
    models['same'].load_state_dict(models['one'].state_dict())
    batches = [torch.randn(2, 3, 6, 6), torch.randn(1, 3, 6, 6)]
    layers = ['conv', 'shared', 'unused']
    overlaps, alike, matched = compare_features(
        models, layers, batches, lambda model, batch: model(batch)
    )
    assert [list(each) for each in overlaps.values()] == [['conv', 'shared']] * 3
    assert alike['one'] == pytest.approx({'conv': 1, 'shared': 1})
    assert alike['same'] == pytest.approx({'conv': 1, 'shared': 1})
    assert alike['other']['conv'] < 0.999
    outputs = [model.conv(torch.cat(batches)) for model in models.values()]
    flat = [output.detach().movedim(1, -1).flatten(0, -2) for output in outputs]
    assert overlaps['other']['conv'] == pytest.approx(
        channel_overlap(moments(flat[2], flat[2])).mean().item(), rel=1e-5
    )
    assert alike['other']['conv'] == pytest.approx(cka(flat[0], flat[2]), rel=1e-5)
    assert matched['same'] == pytest.approx({'conv': 1, 'shared': 1})
    assert matched['other']['conv'] == pytest.approx(match(flat[0], flat[2])[0], rel=1e-5)
    # A layer that runs twice has the outputs of both.
    once = models['other'].shared(outputs[2])
    twice = torch.cat([once, models['other'].shared(once)]).detach().movedim(1, -1).flatten(0, -2)
    assert overlaps['other']['shared'] == pytest.approx(
        channel_overlap(moments(twice, twice)).mean().item(), rel=1e-5
    )
    assert not any(module._forward_hooks for model in models.values() for module in model.modules())


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('batch', [1, 3])
def test_outputs_are_those_of_the_layer_whatever_changes_them_in_place(batch, memory_format):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, inputs):
            return self.norm(self.conv(inputs)).relu_().add_(1)

    one, other = (Residual().eval().to(memory_format=memory_format) for _ in range(2))
    images = torch.randn(batch, 3, 9, 9).to(memory_format=memory_format)
    overlaps, alike, _ = compare_features(
        {'one': one, 'other': other}, ['norm'], [images], lambda model, batch: model(batch)
    )
    outputs = [model.norm(model.conv(images)).detach() for model in (one, other)]
    first, second = (output.movedim(1, -1).flatten(0, -2) for output in outputs)
    assert overlaps['one']['norm'] == pytest.approx(
        channel_overlap(moments(first, first)).mean().item(), rel=1e-5
    )
    assert alike['other']['norm'] == pytest.approx(cka(first, second), rel=1e-5)


def test_outputs_without_positions_count_nothing():
    class Head(nn.Conv2d):
        def forward(self, inputs):
            return super().forward(inputs)[: len(inputs) - 1]

    model = Head(3, 4, 3)
    images = torch.randn(2, 3, 5, 5)
    both = [
        compare_features({'one': model}, [''], batches, lambda model, batch: model(batch))
        for batches in ([images], [images[:1], images, images[1:]])
    ]
    assert both[0] == both[1]


def test_large_outputs_are_sampled_evenly(monkeypatch):
    seen = []
    add = Moments.add
    monkeypatch.setattr(
        Moments, 'add', lambda self, *parts: (seen.append(parts), add(self, *parts))
    )
    monkeypatch.setattr('mmwau.features.POSITIONS', 10)
    model = Network()
    images = torch.randn(2, 3, 7, 7)
    compare_features({'one': model}, ['conv'], [images], lambda model, batch: model(batch))
    ((values, _),) = seen
    whole = model.conv(images).detach().movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(values, whole[::5])
