"""What only a GPU can show; ``make gpu-check`` runs it there."""

import copy
import math

import pytest
import torch
from hooks import Recorder
from small import SmallModel, small_runner
from torch import nn

from mmwau import WAU, HeldGradSkipper, WAUAmpOptimWrapper, find_layers
from mmwau.movement import Movement
from mmwau.overlap import measure
from mmwau.targets import AXES
from mmwau.wau import HOLDS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU'),
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))


def train(model, axis, hold, before_update=lambda update: None):
    """Three updates; what was held and the weights after each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    layers, wau = find_layers(model, axis=axis), WAU(hold=hold)
    skipper = HeldGradSkipper(model, layers, full_grads=hold != 'state')
    device = model[0].weight.device
    batches = [
        torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(update)).to(device)
        for update in range(3)
    ]
    for update, x in enumerate(batches):
        before_update(update)
        active = wau.select(layers, update)
        if hold != 'weight':
            skipper.start(active)
        model(x).square().mean().backward()
        skipper.stop()
        with wau.holding(optimizer, layers, active, None if hold == 'weight' else skipper.grads):
            optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('hold', HOLDS)
def test_a_gpu_waits_for_nothing(hold, axis):
    modes = iter(['default', 'error', 'error'])
    try:
        train(
            network().cuda(),
            axis,
            hold,
            lambda update: torch.cuda.set_sync_debug_mode(next(modes)),
        )
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('hold', HOLDS)
def test_ends_as_on_the_cpu(hold, axis):
    ends = []
    for device in ('cpu', 'cuda'):
        model = network().to(device)
        train(model, axis, hold)
        ends.append([param.detach().cpu() for param in model.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_amp_holds_filters_on_a_gpu(tmp_path, dtype):
    recorder = Recorder()
    wrapper = dict(type='WAUAmpOptimWrapper', loss_scale=128.0, dtype=dtype)
    small_runner(tmp_path, wrapper, [recorder, dict(type='WAUHook')]).train()
    assert all(mask.sum() == 3 for mask in recorder.moved('neck.weight'))


@pytest.mark.parametrize('hold', ['weight', 'state'])
def test_an_update_that_the_scaler_skips_moves_and_loses_nothing(hold):
    model = SmallModel().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    wrapper = WAUAmpOptimWrapper(
        optimizer=optimizer, loss_scale=128.0, dtype='float16', hold=hold, seed=3
    )
    wrapper.initialize_count_status(model, 0, 4)
    for update in range(4):
        before = copy.deepcopy([*model.parameters()]), copy.deepcopy(optimizer.state_dict())
        with wrapper.optim_context(model):
            inputs = torch.randn(2, 3, 8, 8, device='cuda')
            loss = model(inputs, torch.zeros(2, device='cuda'), mode='loss')['loss']
        wrapper.update_params(loss * math.inf if update % 2 else loss)
        same = map(torch.equal, before[0], model.parameters())
        if update % 2:
            assert all(same)
            for key, state in optimizer.state_dict()['state'].items():
                buffer = before[1]['state'][key]['momentum_buffer']
                assert torch.equal(state['momentum_buffer'], buffer)
        else:
            assert not all(same)


def test_overlap_and_movement_are_those_of_the_cpu():
    conv = nn.Conv2d(8, 32, 3)
    other = copy.deepcopy(conv).cuda()
    measures = [measure(one.weight.detach()) for one in (conv, other)]
    assert vars(measures[0]) == pytest.approx(vars(measures[1]), rel=1e-4)
    movements = [Movement({'conv': one}) for one in (conv, other)]
    with torch.no_grad():
        for one in (conv, other):
            one.weight[3] *= torch.linspace(0.5, 2, 9, device=one.weight.device).view(3, 3)
    found = [movement.measure() for movement in movements]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
