"""Whatever operation of an update fails: nothing held moves, and the model is left as it was."""

import itertools
import signal

import pytest
import torch
from small import SmallModel
from torch.utils._python_dispatch import TorchDispatchMode

from mmwau import WAU, HeldGradSkipper, WAUOptimWrapper, find_layers
from mmwau.core.holds import can_step_active_alone
from mmwau.wau import HOLDS

pytestmark = pytest.mark.usefixtures('skip_in_small_layers')

OPTIMIZERS = {
    'sgd': lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    'adamw': lambda params: torch.optim.AdamW(params, lr=0.01),
}


class OnPurposeError(RuntimeError):
    pass


class FailAt(TorchDispatchMode):
    """Raises at one tensor operation, counted from 0; None only counts."""

    def __init__(self, place=None):
        super().__init__()
        self.place, self.count = place, 0
        self.error = None
        # The tensor that an operation would have changed in place.
        self.target = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.count - 1 == self.place:
            self.error = OnPurposeError(f'{func} on purpose')
            if func._schema.is_mutable:
                self.target = args[0]
            raise self.error
        return func(*args, **(kwargs or {}))


class PlainLoop:
    """An update with the parts of the method, as in a loop without a framework."""

    def __init__(self, model, optimizer, wau, skips, axis):
        self.model, self.optimizer, self.wau = model, optimizer, wau
        self.layers = find_layers(model, ('backbone', 'neck'), axis)
        alone = wau.hold == 'state' and can_step_active_alone(optimizer)
        self.skipper = HeldGradSkipper(model, self.layers, not alone) if skips else None
        self.index = 0

    def select(self):
        return self.wau.select(self.layers, self.index)

    def update(self):
        active = self.select()
        if self.skipper is None:
            loss_of(self.model, self.index).backward()
        else:
            with self.skipper.skipping(active):
                loss_of(self.model, self.index).backward()
        grads = None if self.skipper is None else self.skipper.grads
        with self.wau.holding(self.optimizer, self.layers, active, grads):
            self.optimizer.step()
        self.zero_grad()
        self.index += 1

    def reset(self):
        self.index += 1

    def zero_grad(self):
        self.optimizer.zero_grad()
        if self.skipper is not None:
            self.skipper.grads.clear()


class Wrapped:
    """An update with MMEngine's wrapper."""

    def __init__(self, model, optimizer, wau, skips, axis):
        self.model = model
        options = dict(hold=wau.hold, rescale=wau.rescale, seed=wau.seed)
        self.wrapper = WAUOptimWrapper(
            optimizer=optimizer, axis=axis, skip_held_grads=skips, **options
        )
        self.wrapper.initialize_count_status(model, 0, 100)
        self.optimizer, self.layers = optimizer, self.wrapper.layers
        self.zero_grad, self.reset = self.wrapper.zero_grad, self.wrapper.end_update

    def select(self):
        return self.wrapper.wau.select(self.layers, self.wrapper.updates.index)

    def update(self):
        with self.wrapper.optim_context(self.model):
            loss = loss_of(self.model, self.wrapper.updates.index)
        self.wrapper.update_params(loss)


def loss_of(model, index):
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(2, 3, 6, 6, generator=generator)
    return model(x, torch.zeros(2), mode='loss')['loss']


def make(kind, optimizer_name, hold, rescale, skips, axis='out'):
    torch.manual_seed(0)
    model = SmallModel()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    return kind(model, optimizer, WAU(hold=hold, rescale=rescale, seed=4), skips, axis)


def rows(state, layers, active):
    """The held slices of each parameter and of its state, by name."""
    found = {}
    for layer, mask in zip(layers.values(), active, strict=True):
        for param, dim in layer.tensors:
            held = (~mask).nonzero().flatten()
            if layer.is_whole and not mask:
                held = torch.arange(param.size(dim))
            found[param, 'weight'] = param.detach().index_select(dim, held)
            for key, value in state.get(param, {}).items():
                if torch.is_tensor(value) and value.dim() == param.dim():
                    found[param, key] = value.index_select(dim, held)
    return found


def gradients_on(model):
    model.zero_grad()
    loss_of(model, 99).backward()
    return [param.grad for param in model.parameters()]


def clean_copy(model):
    clean = SmallModel()
    clean.load_state_dict(model.state_dict())
    return clean


def check_after_fault(loop, fault, before, active, shapes, hold):
    params = dict(loop.model.named_parameters())
    assert {name: param.shape for name, param in params.items()} == shapes
    for param in params.values():
        for value in loop.optimizer.state.get(param, {}).values():
            assert not torch.is_tensor(value) or value.dim() == 0 or value.shape == param.shape
    if hold != 'grad':
        after = rows(loop.optimizer.state, loop.layers, active)
        for (param, key), kept in before.items():
            if key != 'weight' and hold != 'state':
                continue
            # Where the operation that puts a tensor back is the one that fails, it can't be.
            whole = param if key == 'weight' else loop.optimizer.state[param][key]
            if fault.target is not None and fault.target.data_ptr() == whole.data_ptr():
                continue
            assert torch.equal(after[param, key], kept), (fault.error, key)
    loop.zero_grad()
    clean = clean_copy(loop.model)
    for module in loop.model.modules():
        assert module.__dict__.keys().isdisjoint(('_conv_forward', 'forward'))
        own = [param for param in module._parameters.values() if param is not None]
        assert all(isinstance(param, torch.nn.Parameter) for param in own)
    for one, other in zip(gradients_on(loop.model), gradients_on(clean), strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    loop.zero_grad()


def fail_at_each_operation(loop, hold):
    """Let each operation of an update fail, one after another; training goes on in between."""
    for place in itertools.count():
        active = loop.select()
        before = rows(loop.optimizer.state, loop.layers, active)
        shapes = {name: param.shape for name, param in loop.model.named_parameters()}
        fault = FailAt(place)
        seen = None
        try:
            with fault:
                loop.update()
        except OnPurposeError as error:
            seen = error
        assert seen is fault.error
        if seen is None:
            return place
        check_after_fault(loop, fault, before, active, shapes, hold)
        loop.reset()


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
# What the wrapper adds is the same with and without.
@pytest.mark.parametrize(
    ('kind', 'rescale'), [(PlainLoop, False), (PlainLoop, True), (Wrapped, True)]
)
@pytest.mark.parametrize(
    ('hold', 'skips'),
    [(hold, skips) for hold in HOLDS for skips in (False, True) if not skips or hold != 'weight'],
)
def test_what_fails_leaves_nothing_behind(kind, optimizer, hold, rescale, skips):
    loop = make(kind, optimizer, hold, rescale, skips)
    loop.update()
    assert fail_at_each_operation(loop, hold) > 100


@pytest.mark.parametrize('kind', [PlainLoop, Wrapped])
@pytest.mark.parametrize(
    ('hold', 'skips'),
    [('weight', False), ('state', False), ('state', True), ('grad', True)],
)
def test_what_fails_leaves_nothing_behind_of_whole_layers(kind, hold, skips):
    loop = make(kind, 'sgd', hold, True, skips, 'layer')
    loop.update()
    assert fail_at_each_operation(loop, hold) > 60


@pytest.mark.parametrize('skips', [False, True])
def test_what_fails_in_the_first_update_leaves_nothing_behind(skips):
    recipe = PlainLoop, 'sgd', 'state', True, skips
    make(*recipe).update()  # some hashes and places are computed once and kept
    assert fail_at_each_operation(make(*recipe), 'state') > 100


@pytest.fixture
def pythons_own_interrupts():
    """Processes in the background, as in continuous integration, ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class InterruptAt(FailAt):
    """Presses Ctrl-C at one tensor operation."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        if self.count - 1 == self.place:
            self.error = func
            signal.raise_signal(signal.SIGINT)
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures('pythons_own_interrupts')
@pytest.mark.parametrize('kind', [PlainLoop, Wrapped])
@pytest.mark.parametrize(
    ('hold', 'skips', 'axis'),
    [
        ('weight', False, 'out'),
        ('state', True, 'out'),
        ('state', False, 'out'),
        ('state', True, 'layer'),
    ],
)
def test_an_interrupt_leaves_nothing_behind(kind, hold, skips, axis):
    loop = make(kind, 'sgd', hold, False, skips, axis)
    loop.update()
    for place in itertools.count():
        active = loop.select()
        before = rows(loop.optimizer.state, loop.layers, active)
        shapes = {name: param.shape for name, param in loop.model.named_parameters()}
        fault = InterruptAt(place)
        try:
            with fault:
                loop.update()
        except KeyboardInterrupt:
            pass
        else:
            assert fault.error is None, f'{fault.error}: the interrupt was lost'
            break
        check_after_fault(loop, fault, before, active, shapes, hold)
        loop.reset()
    assert place > 60
