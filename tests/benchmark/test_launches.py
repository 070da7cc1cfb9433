"""How many operations WAU adds to a training step, and that a GPU is not given more."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from simulated_gpu import SimulatedGPU, needs_simulation
from small_network import small_network
from torch import nn

from mmwau import WAUOptimWrapper
from mmwau.benchmark.arms import ARMS, BASELINE
from mmwau.benchmark.launches import REST, STEP, OperationCounter, count_operations, rows_of


def third_update(layers, device='cpu', foreach=False, bias=False, **options):
    """Make two updates of so many layers; return what makes the third. Without options: plain."""
    model = nn.Sequential(*(nn.Conv2d(4, 4, 1, bias=bias, device=device) for _ in range(layers)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=foreach)
    wrapper = OptimWrapper(optimizer)
    if options:
        wrapper = WAUOptimWrapper(optimizer, targets='', seed=0, **options)
    wrapper.initialize_count_status(model, 0, 3)
    # Something before the first layer trains, so that the backward pass goes through all of them.
    x = torch.ones(2, 4, 6, 6, device=device, requires_grad=True)

    def update():
        with wrapper.optim_context(model):
            loss = model(x).sum()
        wrapper.update_params(loss)

    update()
    update()
    return update


def operations(layers, **options):
    update = third_update(layers, **options)
    with OperationCounter(torch.device('cpu')) as counter:
        update()
    return counter.count


def by_layer(**options):
    """Operations of an update that each layer more adds."""
    return (operations(8, **options) - operations(4, **options)) / 4


@pytest.mark.parametrize('axis', ['out', 'in'])
def test_hold_weight_adds_two_operations_a_tensor(axis):
    assert by_layer(hold='weight', axis=axis) - by_layer() == 2


def test_nothing_is_done_for_a_layer_that_is_held():
    """Of the forward and backward passes and a step of SGD, half of the layers lack the step."""
    assert by_layer() - by_layer(hold='state', axis='layer') == 0.5


@needs_simulation
@pytest.mark.parametrize('foreach', [False, True])
def test_a_gpu_is_given_no_more(foreach):
    def launches(**options):
        with SimulatedGPU() as gpu:
            update = third_update(6, 'cuda', foreach, bias=True, **options)
            gpu.launches.clear()
            update()
            return gpu.launches.total()

    plain, weights, tensors = launches(), 6, 12
    assert launches(hold='weight') == plain + 2 * tensors
    assert launches(hold='weight', axis='in') == plain + 2 * weights
    saved = 0 if foreach else tensors / 2
    assert launches(hold='state', axis='layer') == plain - saved


def test_what_is_only_seen_otherwise_or_taken_is_no_work():
    x = torch.ones(4, 4)
    with OperationCounter(torch.device('cpu')) as counter:
        x.view(2, 8).t()[0].detach().unbind()
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
