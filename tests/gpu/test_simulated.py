"""Every path of WAU on a GPU that is simulated: no mix of devices, and who waits for the GPU.

What it can't show: values (they have none; the CPU's tests compare them), the time that anything
takes, streams, autocast, which asks C++ for the device, and what calls torch.cuda itself, such as
GradScaler and MMEngine's AmpOptimWrapper. What of these is WAU's is in test_on_a_gpu.py.
"""

import pytest
import torch
from hooks import scalars
from simulated_gpu import SimulatedGPU, needs_simulation
from small import SmallModel, small_runner
from torch import distributed, nn

import mmwau.wau
from mmwau import HeldGradSkipper, WAUOptimWrapper, attach, find_layers
from mmwau.core.slices import find_slices
from mmwau.features import compare_features
from mmwau.movement import Movement
from mmwau.overlap import cosine_matrix, layer_overlap, measure
from mmwau.targets import AXES
from mmwau.traffic import ActiveTraffic, all_reduce_active
from mmwau.wau import HOLDS, SAMPLERS, WAU

pytestmark = [needs_simulation, pytest.mark.usefixtures('skip_in_small_layers')]
# Optimizers compute over all tensors at once on a GPU, unless it is simulated.
OPTIMIZERS = {
    'SGD': lambda params: torch.optim.SGD(
        params, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=True
    ),
    'AdamW': lambda params: torch.optim.AdamW(params, lr=0.01, foreach=True),
    'Adagrad': lambda params: torch.optim.Adagrad(params, lr=0.01),
}


@pytest.fixture
def gpu():
    with SimulatedGPU() as gpu:
        yield gpu


def network(device='cuda'):
    """Convolutions of each kind, without batch norm, which sends a number to the GPU at first."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, device=device),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2, bias=False, device=device),
        nn.ConvTranspose2d(8, 6, 1, device=device),
        nn.Conv2d(6, 4, 1, bias=False, device=device),
    )


def loss_of(model):
    return model(torch.randn(2, 3, 8, 8, device='cuda')).square().mean()


def train_attached(model, optimizer, **options):
    attach(optimizer, model, seed=0, **options)
    for _ in range(3):
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()


def train_wrapped(model, optimizer, **options):
    wrapper = WAUOptimWrapper(optimizer, targets='', seed=0, accumulative_counts=2, **options)
    wrapper.initialize_count_status(model, 0, 6)
    for _ in range(6):
        with wrapper.optim_context(model):
            loss = loss_of(model)
        wrapper.update_params(loss)


def train_by_hand(model, optimizer, axis='out', **options):
    layers, wau = find_layers(model, axis=axis), WAU(**options)
    skipper = HeldGradSkipper(model, layers, full_grads=wau.hold != 'state' or axis == 'layer')
    for update in range(3):
        active = wau.select(layers, update)
        if wau.hold == 'weight':
            loss_of(model).backward()
        else:
            with skipper.skipping(active):
                loss_of(model).backward()
        grads = None if wau.hold == 'weight' else skipper.grads
        with wau.holding(optimizer, layers, active, grads):
            optimizer.step()
        optimizer.zero_grad()


def state_of(optimizer):
    return [
        value
        for state in optimizer.state.values()
        for key, value in state.items()
        if key != 'step'  # of AdamW, on the CPU
    ]


@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('hold', HOLDS)
@pytest.mark.parametrize('train', [train_attached, train_wrapped, train_by_hand])
def test_an_update_mixes_no_devices_and_waits_for_nothing(gpu, train, hold, axis):
    model = network()
    optimizer = OPTIMIZERS['SGD'](model.parameters())
    train(model, optimizer, axis=axis, hold=hold)
    assert not gpu.waits
    assert all(one.device.type == 'cuda' for one in [*model.parameters(), *state_of(optimizer)])
    assert gpu.launches['convolution_backward'] > 0


@pytest.mark.parametrize('options', [{}, dict(rescale=True), dict(skip_held_grads=False)])
@pytest.mark.parametrize('axis', AXES)
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_clocks_of_their_own_mix_no_devices_whatever_the_optimizer(gpu, optimizer, axis, options):
    model = network()
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    train_attached(model, optimizer, axis=axis, hold='state', **options)
    assert not gpu.waits
    assert all(one.device.type == 'cuda' for one in state_of(optimizer))


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_a_selection_is_drawn_on_the_cpu_and_sent_once(gpu, sampler):
    model = network()
    layers = find_layers(model)
    gpu.launches.clear()
    active = WAU(sampler=sampler).select(layers, 3)
    assert {one.device.type for one in active} == {'cpu'}
    assert not gpu.launches
    found = find_slices(layers, active)
    assert {one.held.device.type for one in found} == {'cuda'}
    assert not gpu.waits


def test_channels_last_keeps_its_memory_format_where_gradients_are_skipped(gpu):
    model = network('cpu').to(memory_format=torch.channels_last).to('cuda')
    gpu.waits.clear()
    train_attached(model, OPTIMIZERS['SGD'](model.parameters()), hold='state')
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not gpu.waits


class Bucket:
    """As DistributedDataParallel gives it to a hook."""

    def __init__(self, params):
        self.params = params
        self.flat = torch.cat([torch.ones_like(one).flatten() for one in params])

    def buffer(self):
        return self.flat

    def parameters(self):
        return self.params

    def index(self):
        return 0


class Done:
    """In the place of a future of torch, which takes no simulated tensors."""

    def __init__(self, value):
        self.value = self.wait = lambda: value

    def get_future(self):
        return self

    def then(self, do):
        return Done(do(self))


@pytest.mark.parametrize('axis', AXES)
def test_what_is_sent_lies_on_the_gpu(gpu, axis, monkeypatch):
    """In the place of processes, which don't take simulated tensors, one that sends to nobody."""
    sent = []

    def all_reduce(tensor, *args, **kwargs):
        sent.append(tensor)
        return Done([tensor])

    monkeypatch.setattr(distributed, 'all_reduce', all_reduce)
    monkeypatch.setattr(distributed, 'get_world_size', lambda group=None: 2)
    model = network()
    layers, traffic = find_layers(model, axis=axis), ActiveTraffic()
    active = WAU(hold='state').select(layers, 0)
    # The processes compare their first selection. Of ones, the sum and its negative differ.
    with pytest.raises(ValueError, match='all processes to select the same slices'):
        traffic.start(layers, active)
    assert gpu.waits_of() == {'traffic._check_same'}
    gpu.waits.clear()
    traffic._is_checked = True
    with torch.no_grad():
        bucket = Bucket(list(model.parameters()))
        traffic.start(layers, active)
        given = all_reduce_active(traffic, bucket).wait()
    assert given.device.type == sent[-1].device.type == 'cuda'
    assert sent[-1].numel() < given.numel()
    assert not gpu.waits


# Of functions of mmwau, when the CPU waits for them.
AT_THE_INTERVAL = {'overlap.layer_overlap'}
IN_EACH_ITERATION_IF_ASKED = {'movement.measure'}
IN_CHECKPOINTS = {'movement.state_dict', 'movement.<dictcomp>'}


@pytest.mark.parametrize('hook', ['OverlapHook', 'WAUHook'])
def test_a_run_waits_only_for_what_is_measured(gpu, hook, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.get_device', lambda: 'cuda')
    hooks = [dict(type=hook, overlap_interval=2, movement=True)]
    wrapper = dict(type='WAUOptimWrapper', hold='state')
    runner = small_runner(tmp_path, wrapper, hooks, model=SmallModel())
    runner.train()
    assert all(one.device.type == 'cuda' for one in runner.model.parameters())
    # What MMEngine itself waits for, such as the losses in the log, a baseline waits for too.
    ours = gpu.waits_of('mmengine')
    assert ours <= AT_THE_INTERVAL | IN_EACH_ITERATION_IF_ASKED | IN_CHECKPOINTS
    iterations, layers, measured = 6, 2, 1 + 3 + 1
    assert gpu.waits['movement.measure'] == iterations
    assert gpu.waits['overlap.layer_overlap'] == layers * measured
    assert len(scalars(tmp_path)) == iterations


def test_a_run_that_measures_no_movement_waits_at_the_interval_alone(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.get_device', lambda: 'cuda')
    hooks = [dict(type='WAUHook', overlap_interval=100)]
    small_runner(tmp_path, dict(type='WAUOptimWrapper'), hooks, model=SmallModel()).train()
    assert gpu.waits_of('mmengine') == AT_THE_INTERVAL
    assert gpu.waits['overlap.layer_overlap'] == 2 * 2  # layers, at the start and at the end


@pytest.mark.parametrize(
    'hook',
    [
        dict(type='DSDHook', begin=1, end=2),
        dict(type='RePrHook', full_epochs=1, sub_epochs=1, cycles=1, drop_ratio=0.2),
        dict(type='OrthogonalityHook', kind='so'),
        dict(type='OrthogonalityHook', kind='srip'),
    ],
    ids=lambda hook: hook['type'],
)
def test_methods_to_compare_with_mix_no_devices(gpu, hook, tmp_path, monkeypatch):
    """All but DropoutHook, which draws by a generator that only a real GPU has."""
    monkeypatch.setattr('mmengine.runner.runner.get_device', lambda: 'cuda')
    runner = small_runner(tmp_path, {}, [hook], max_epochs=3, model=SmallModel())
    runner.train()
    assert all(one.device.type == 'cuda' for one in runner.model.parameters())


@pytest.mark.parametrize('index', [0, 2, 3])
def test_overlap_and_movement_are_measured_on_the_gpu(gpu, index):
    conv = network()[index]
    dim, groups = (1, 1) if isinstance(conv, nn.ConvTranspose2d) else (0, conv.groups)
    assert cosine_matrix(conv.weight, dim, groups).device.type == 'cuda'
    assert not gpu.waits
    layer_overlap(conv)
    measure(conv.weight, dim, groups)
    movement = Movement({'conv': conv})
    movement.measure()
    movement.load_state_dict(movement.state_dict())
    gpu.waits.clear()
    movement.measure()
    assert gpu.waits == {'movement.measure': 1}


def test_features_are_summed_on_the_cpu(gpu):
    models = {'one': network(), 'other': network()}
    batches = [torch.randn(2, 3, 8, 8, device='cuda') for _ in range(2)]
    found = compare_features(models, ['0', '4'], batches, lambda model, batch: model(batch))
    assert all(one.keys() == models.keys() for one in found)
    assert gpu.waits_of() == {'features.add'}


def test_a_mix_of_devices_is_found(gpu, monkeypatch):
    def stays_behind(layers, active):
        found = find_slices(layers, active)
        return [one._replace(held=torch.tensor([0])) for one in found]

    monkeypatch.setattr(mmwau.wau, 'find_slices', stays_behind)
    model = network()
    with pytest.raises(RuntimeError, match=r'found two different devices cuda:0, cpu'):
        train_attached(model, OPTIMIZERS['SGD'](model.parameters()))


PLANTED = {
    'item': lambda x: x.sum().item(),
    'bool': lambda x: bool(x.any()),
    'float': lambda x: float(x.sum()),
    'tolist': lambda x: x.tolist(),
    'cpu': lambda x: x.cpu(),
    'numpy': lambda x: x.to('cpu').numpy(),
    'not blocking': lambda x: x.to('cpu', non_blocking=True),
    'copy': lambda x: torch.zeros(4).copy_(x),
    'equal': lambda x: torch.equal(x, x),
    'new': lambda x: torch.tensor([1.0, 2.0], device='cuda'),
    'send': lambda x: torch.zeros(2).to('cuda'),
    'index': lambda x: x[torch.tensor([0, 2])],
}


@pytest.mark.parametrize('name', PLANTED)
def test_a_wait_is_found(gpu, name):
    PLANTED[name](torch.ones(4, device='cuda'))
    assert gpu.waits_of() == {__name__}


@pytest.mark.parametrize(
    'count',
    [
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(x.long()),
    ],
)
def test_what_can_not_go_on_without_values_is_an_error(gpu, count):
    with pytest.raises((AssertionError, RuntimeError)):
        count(torch.ones(4, device='cuda'))


def test_what_is_sent_and_not_waited_for_is_none(gpu):
    torch.zeros(4).to('cuda', non_blocking=True).add_(1)
    torch.zeros(4, device='cuda').copy_(torch.zeros(4), non_blocking=True)
    assert not gpu.waits
    assert gpu.launches['copy_'] == gpu.launches['add_'] == 1
