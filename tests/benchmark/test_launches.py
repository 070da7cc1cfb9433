"""How many operations WAU adds to a training step, and that a GPU is not given more."""

import pytest
import torch
from simulated_gpu import CAN_SIMULATE, SimulatedGPU
from small_network import small_network
from torch import nn

from mmwau import attach
from mmwau.benchmark.arms import ARMS, BASELINE
from mmwau.benchmark.launches import REST, STEP, OperationCounter, count_operations, rows_of
from mmwau.benchmark.networks import Network


def network_of(layers):
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(layers)))
    x = torch.randn(2, 8, 6, 6)
    return Network(model, lambda model: model(x).square().mean(), ('',), 'small')


def by_layer(arm, part):
    """Operations that each layer more adds."""
    small, large = (count_operations(network_of(size), [arm])[arm][part] for size in (4, 8))
    return (large - small) / 4


def test_hold_weight_adds_two_operations_a_tensor():
    assert by_layer('weight 0.5', STEP) - by_layer(BASELINE, STEP) == 2
    assert by_layer('weight 0.5', REST) == by_layer(BASELINE, REST)


def test_nothing_is_done_for_a_layer_that_is_held():
    # Half of them are.
    assert by_layer('layers 0.5', STEP) == by_layer(BASELINE, STEP) / 2
    assert by_layer('layers 0.5', REST) <= by_layer(BASELINE, REST)


@pytest.mark.skipif(not CAN_SIMULATE, reason='this torch needs a GPU to simulate one')
@pytest.mark.parametrize('foreach', [False, True])
def test_a_gpu_is_given_no_more(foreach):
    def launches(**options):
        with SimulatedGPU() as gpu:
            model = nn.Sequential(*(nn.Conv2d(4, 4, 1, device='cuda') for _ in range(6)))
            optimizer = torch.optim.SGD(
                model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, foreach=foreach
            )
            if options:
                attach(optimizer, model, seed=0, **options)
            for _ in range(3):
                gpu.launches.clear()
                model(torch.ones(2, 4, 6, 6, device='cuda')).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            return gpu.launches.total()

    plain, tensors = launches(), 12
    # The indices are sent in a copy of their own.
    assert launches(hold='weight') <= plain + 2 * tensors + 1
    assert launches(hold='weight', axis='in') <= plain + tensors + 1  # not the biases
    assert launches(hold='state', axis='layer') <= plain


def test_what_is_only_seen_otherwise_or_taken_is_no_work():
    x = torch.ones(4, 4)
    with OperationCounter(torch.device('cpu')) as counter:
        x.t().view(2, 8)[0].detach().unbind()
        torch.empty(3), torch.empty_like(x), x.new_empty(2)
    assert counter.count == 0
    with OperationCounter(torch.device('cpu')) as counter:
        x.t() @ x
        x.add_(1)
        torch.zeros(3)
    assert counter.count == 3


def test_every_arm_is_counted_and_the_network_left_alone():
    network, ticks = small_network(), []
    before = [param.clone() for param in network.model.parameters()]
    counts = count_operations(network, list(ARMS), lambda: ticks.append(1))
    assert list(counts) == list(ARMS)
    assert len(ticks) == len(ARMS)
    assert all(count > 0 for parts in counts.values() for count in parts.values())
    assert all(map(torch.equal, before, network.model.parameters()))


def test_rows_tell_how_many_more_than_the_baseline():
    counts = {
        BASELINE: {REST: 100, STEP: 10},
        'a': {REST: 90, STEP: 15},
        'b': {REST: 101, STEP: 10},
    }
    assert rows_of(counts) == [
        (BASELINE, '100', '10', '110', ''),
        ('a', '90', '15', '105', '-5'),
        ('b', '101', '10', '111', '+1'),
    ]
