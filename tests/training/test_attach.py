"""One call makes an optimizer one with WAU, with the bits of the explicit form."""

import copy
import gc
import logging
import pickle
import signal
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from mmwau import WAU, HeldGradSkipper, attach, find_layers
from mmwau.wau import HOLDS

pytestmark = pytest.mark.usefixtures('skip_in_small_layers')

OPTIMIZERS = {
    'sgd': lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    'adamw': lambda params: torch.optim.AdamW(params, lr=0.01),
    'adagrad': lambda params: torch.optim.Adagrad(params, lr=0.01),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.Flatten(),
        nn.Linear(6 * 16, 2),
    )


def loss_of(model, index):
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(index))
    return model(x).square().mean()


def assert_same(model, other):
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name


def train_explicitly(model, optimizer, updates, wau, axis='out', accumulate=1, norm=None):
    layers = find_layers(model, axis=axis)
    skipper = HeldGradSkipper(model, layers) if wau.hold != 'weight' else None
    for update in range(updates):
        active = wau.select(layers, update)
        for part in range(accumulate):
            if skipper is None:
                loss_of(model, update * accumulate + part).backward()
            else:
                with skipper.skipping(active):
                    loss_of(model, update * accumulate + part).backward()
        if norm:
            clip_grad_norm_(model.parameters(), norm)
        grads = skipper and skipper.grads
        with wau.holding(optimizer, layers, active, grads):
            optimizer.step()
        optimizer.zero_grad()


def train_plainly(model, optimizer, updates, accumulate=1, norm=None, start=0):
    for update in range(start, updates):
        for part in range(accumulate):
            loss_of(model, update * accumulate + part).backward()
        if norm:
            clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('hold', HOLDS)
@pytest.mark.parametrize(
    'options', [{}, dict(rescale=True), dict(axis='in', sampler='with_replacement', min_active=0)]
)
@pytest.mark.parametrize('loop', [{}, dict(accumulate=3, norm=0.05)])
def test_has_the_bits_of_the_explicit_form(optimizer, hold, options, loop):
    one, two = network(), network()
    rule = {key: value for key, value in options.items() if key != 'axis'}
    wau = WAU(0.5, hold=hold, seed=5, **rule)
    train_explicitly(
        one, OPTIMIZERS[optimizer](one.parameters()), 6, wau, options.get('axis', 'out'), **loop
    )
    attached = OPTIMIZERS[optimizer](two.parameters())
    handle = attach(attached, two, 0.5, hold=hold, seed=5, **options)
    train_plainly(two, attached, 6, **loop)
    assert_same(one, two)
    assert handle.update_index == 6
    assert 0 < handle.active_fraction < 1
    assert list(handle.layers) == ['0', '3']


@pytest.mark.parametrize('hold', HOLDS)
def test_is_undone_by_one_call(hold):
    model, plain = network(), network()
    optimizer, other = (OPTIMIZERS['sgd'](one.parameters()) for one in (model, plain))
    state = [dict(vars(module)) for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    handle = attach(optimizer, model, hold=hold)
    assert type(optimizer) is torch.optim.SGD
    loss_of(model, 0).backward()  # an update is under way
    model.zero_grad()
    handle.remove()
    handle.remove()
    train_plainly(model, optimizer, 4)
    model.load_state_dict(plain.state_dict())
    assert 'step' not in vars(optimizer)
    assert 'wau' not in optimizer.state_dict()
    assert [vars(module).keys() for module in model.modules()] == [one.keys() for one in state]
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    model, optimizer = network(), OPTIMIZERS['sgd']
    optimizer = optimizer(model.parameters())
    attach(optimizer, model, hold=hold).remove()
    train_plainly(model, optimizer, 4)
    train_plainly(plain, other, 4)
    assert_same(model, plain)


@pytest.mark.parametrize('first', ['attach', 'schedule'])
def test_learning_rate_schedules_see_their_steps(first, recwarn):
    models = [network(), network()]
    for model in models:
        optimizer = OPTIMIZERS['sgd'](model.parameters())
        if model is models[1] and first == 'attach':
            handle = attach(optimizer, model, seed=5)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
        if model is models[1] and first == 'schedule':
            handle = attach(optimizer, model, seed=5)
        layers = find_layers(model)
        for update in range(5):
            loss_of(model, update).backward()
            if model is models[0]:
                wau = WAU(seed=5)
                with wau.holding(optimizer, layers, wau.select(layers, update)):
                    optimizer.step()
            else:
                optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    assert_same(*models)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.001)
    assert not [one for one in recwarn if 'lr_scheduler' in str(one.message)]
    handle.remove()  # also below the schedule's own wrapping
    before = models[1][0].weight.detach().clone()
    loss_of(models[1], 9).backward()
    optimizer.step()
    assert models[1][0].weight.ne(before).flatten(1).any(dim=1).all()


@pytest.mark.parametrize('hold', HOLDS)
@pytest.mark.parametrize('seed', [None, 5])
def test_goes_on_from_the_state_of_the_optimizer(hold, seed):
    torch.manual_seed(77)
    whole, part = network(), network()
    torch.manual_seed(77)
    optimizer = OPTIMIZERS['adamw'](whole.parameters())
    attach(optimizer, whole, hold=hold, seed=seed, sampler='cyclic')
    train_plainly(whole, optimizer, 8)
    torch.manual_seed(77)
    optimizer = OPTIMIZERS['adamw'](part.parameters())
    attach(optimizer, part, hold=hold, seed=seed, sampler='cyclic')
    train_plainly(part, optimizer, 3)
    saved = copy.deepcopy((part.state_dict(), optimizer.state_dict()))
    assert saved[1]['wau'] == dict(updates=3, seed=seed or 77)
    torch.manual_seed(78)
    resumed = network()
    resumed.load_state_dict(saved[0])
    optimizer = OPTIMIZERS['adamw'](resumed.parameters())
    handle = attach(optimizer, resumed, hold=hold, seed=seed, sampler='cyclic')
    optimizer.load_state_dict(saved[1])
    assert handle.update_index == 3
    train_plainly(resumed, optimizer, 8, start=3)
    assert_same(whole, resumed)
    plain = OPTIMIZERS['adamw'](network().parameters())
    plain.load_state_dict(saved[1])  # which needs nothing of mmwau
    handle.remove()


@pytest.mark.parametrize('hold', HOLDS)
def test_scaled_gradients(hold):
    """With torch's GradScaler, unscaled and clipped outside of the step; one update overflows."""
    one, two = network().double(), network().double()
    scales = [torch.amp.GradScaler('cpu', init_scale=8.0) for _ in range(2)]
    wau = WAU(hold=hold, seed=5)
    optimizers = [OPTIMIZERS['sgd'](model.parameters()) for model in (one, two)]
    layers = find_layers(one)
    handle = attach(optimizers[1], two, hold=hold, seed=5)
    index = 0
    for update in range(6):
        overflows = update == 2
        for model, optimizer, scaler in zip((one, two), optimizers, scales, strict=True):
            x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(update)).double()
            loss = model(x).square().mean() * (float('inf') if overflows else 1)
            scaler.scale(loss).backward()
            if model is one:
                active = wau.select(layers, index)
                with wau.holding(optimizer, layers, active):
                    scaler.unscale_(optimizer)
                    clip_grad_norm_(model.parameters(), 0.1 if hold == 'weight' else 1e9)
                    scaler.step(optimizer)
                index += not overflows
            else:
                scaler.unscale_(optimizer)
                clip_grad_norm_(model.parameters(), 0.1 if hold == 'weight' else 1e9)
                scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert handle.update_index == index == 5
    for (name, param), twin in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(param, twin, msg=name)


@pytest.mark.parametrize('hold', HOLDS)
def test_steps_with_a_closure(hold):
    one, two = network(), network()
    wau = WAU(hold=hold, seed=5)
    train_explicitly(one, OPTIMIZERS['sgd'](one.parameters()), 4, wau)
    optimizer = OPTIMIZERS['sgd'](two.parameters())
    attach(optimizer, two, hold=hold, seed=5)
    for update in range(4):

        def closure(update=update):
            optimizer.zero_grad()
            loss = loss_of(two, update)
            loss.backward()
            return loss

        assert optimizer.step(closure).item() > 0
    assert_same(one, two)


def test_the_ratio_may_change_at_any_time():
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    handle = attach(optimizer, model, hold='state')
    fractions = []
    for update, ratio in enumerate((1, 0.5, 0.25)):
        handle.update_ratio = ratio
        loss_of(model, update).backward()
        optimizer.step()
        fractions.append(handle.active_fraction)
    assert fractions == pytest.approx([1, 0.5, 4 / 14])
    with pytest.raises(ValueError, match=r'update_ratio must be in \(0, 1\], got 2'):
        handle.update_ratio = 2


@pytest.mark.parametrize('hold', ['state', 'grad'])
def test_another_optimizer_does_not_take_what_was_skipped(hold):
    """As after an interrupted cell of a notebook."""
    model = network()
    first = OPTIMIZERS['sgd'](model.parameters())
    handle = attach(first, model, hold=hold)
    loss_of(model, 0).backward()
    second = OPTIMIZERS['sgd'](model.parameters())
    with pytest.raises(RuntimeError, match=r'gradients were skipped for the SGD .*Call remove\(\)'):
        second.step()
    OPTIMIZERS['sgd'](network().parameters()).step()  # of another model
    handle.remove()
    model.zero_grad()
    before = model[0].weight.detach().clone()
    loss_of(model, 0).backward()
    second.step()
    assert model[0].weight.ne(before).flatten(1).any(dim=1).all()


def test_a_second_call_takes_the_place_of_the_first(caplog):
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    attach(optimizer, model, hold='state', seed=1)
    attach(optimizer, model, hold='state', seed=5)
    assert 'WAU was attached to this optimizer or to these layers before' in caplog.text
    train_plainly(model, optimizer, 3)
    twin = network()
    train_explicitly(twin, OPTIMIZERS['sgd'](twin.parameters()), 3, WAU(hold='state', seed=5))
    assert_same(model, twin)
    assert optimizer.state_dict()['wau'] == dict(updates=3, seed=5)


def test_two_optimizers_of_one_model_have_their_own():
    model, twin = network(), network()
    optimizers = [OPTIMIZERS['sgd'](model[place].parameters()) for place in (0, 3)]
    handles = [attach(one, model, hold='state', seed=5) for one in optimizers]
    assert [list(handle.layers) for handle in handles] == [['0'], ['3']]
    for index in (1, 5):
        twin[index].requires_grad_(False)
    for update in range(3):
        loss_of(model, update).backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
    train_explicitly(twin, OPTIMIZERS['sgd'](twin.parameters()), 3, WAU(hold='state', seed=5))
    assert_same(model, twin)


def test_freezing_and_new_parameters_are_followed(caplog):
    caplog.set_level(logging.INFO, 'mmwau')
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    handle = attach(optimizer, model, hold='state')
    assert 'WAU holds slices of 2 convolutions' in caplog.text
    train_plainly(model, optimizer, 1)
    model[3] = nn.Conv2d(8, 6, 1)
    optimizer.add_param_group(dict(params=list(model[3].parameters())))
    model[0].requires_grad_(False)
    for update in range(1, 4):
        before = model[3].weight.detach().clone()
        train_plainly(model, optimizer, update + 1, start=update)
        assert int(model[3].weight.ne(before).flatten(1).any(dim=1).sum()) == 3
    assert list(handle.layers) == ['3']


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_the_model_are_plain(copied):
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    attach(optimizer, model, hold='state')
    loss_of(model, 0).backward()
    twin = copied(model)
    twin.zero_grad()
    loss_of(twin, 0).backward()
    assert twin[0].weight.grad.flatten(1).any(dim=1).all()
    assert not model[0].weight.grad.flatten(1).any(dim=1).all()
    state = copy.deepcopy(optimizer).state_dict()
    assert 'wau' not in state


def test_evaluation_and_validation_are_plain_and_open_no_update():
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    handle = attach(optimizer, model, hold='state')
    with torch.no_grad():
        loss_of(model, 0)
    model.eval()
    loss_of(model, 0).backward()
    assert model[0].weight.grad.flatten(1).any(dim=1).all()
    assert handle.active_fraction is None


def test_nothing_stays_alive():
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    attach(optimizer, model, hold='state')
    train_plainly(model, optimizer, 2)
    del model, optimizer
    gc.collect()
    from mmwau.training.owners import _attached

    assert not _attached


@pytest.mark.parametrize(
    ('make', 'error', 'words'),
    [
        (lambda m, o: attach(m, o), TypeError, r'optimizer must be .*attach\(optimizer, model\)'),
        (lambda m, o: attach(o, None), TypeError, r'model must be a torch.nn.Module, got NoneType'),
        (lambda m, o: attach(o, m, 0), ValueError, r'update_ratio must be in \(0, 1\]'),
        (lambda m, o: attach(o, m, axis='x'), ValueError, r"axis must be one of .*got 'x'"),
        (lambda m, o: attach(o, m, targets='neck'), ValueError, r"targets=\('neck',\)"),
        (lambda m, o: attach(o, m, skip_held_grads=True), ValueError, r"hold='weight'"),
        (
            lambda m, o: attach(torch.optim.LBFGS(m.parameters()), m, hold='grad'),
            ValueError,
            r'LBFGS computes them anew',
        ),
        (
            lambda m, o: attach(torch.optim.Rprop(m.parameters()), m, hold='state'),
            ValueError,
            r"Rprop's has not",
        ),
    ],
)
def test_wrong_use_is_told_and_changes_nothing(make, error, words):
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    with pytest.raises(error, match=words):
        make(model, optimizer)
    assert 'step' not in vars(optimizer)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_whose_rate_rises_from_0_is_held_from_then_on():
    model = network()
    groups = [dict(params=model[0].parameters(), lr=0.0), dict(params=model[3].parameters())]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=1e-2)
    handle = attach(optimizer, model)
    for update in range(4):
        before = model[0].weight.detach().clone()
        loss_of(model, update).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        moved = model[0].weight.ne(before).flatten(1).any(dim=1).sum()
        assert moved == (4 if update else 0)
        assert list(handle.layers) == (['0', '3'] if update else ['3'])


def test_an_attach_that_fails_leaves_nothing():
    class NoInit(torch.optim.SGD):
        def __init__(self, base):  # as timm's Lookahead
            self.base, self.param_groups, self.state = base, base.param_groups, base.state

    model = network()
    state = [dict(vars(module)) for module in model.modules()]
    with pytest.raises(TypeError, match=r'NoInit does not take hooks.*optimizer inside of it'):
        attach(NoInit(OPTIMIZERS['sgd'](model.parameters())), model, hold='grad')
    assert [vars(module).keys() for module in model.modules()] == [one.keys() for one in state]
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize('hold', HOLDS)
def test_a_step_that_was_kept_from_before_is_refused(hold):
    """As Accelerate keeps it under a GradScaler."""
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    step = optimizer.step
    attach(optimizer, model, hold=hold)
    loss_of(model, 0).backward()
    before = model[0].weight.detach().clone()
    with pytest.raises(RuntimeError, match=r'goes past WAU.*Call attach before'):
        step()
    assert torch.equal(model[0].weight, before)
    optimizer.step()


def test_another_optimizer_is_warned_of_where_nothing_was_skipped(caplog):
    model = network()
    # Kept: what nobody has any more may be collected, and warns of nothing.
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    attach(optimizer, model)
    other = OPTIMIZERS['adamw'](model.parameters())
    for _ in range(3):
        loss_of(model, 0).backward()
        other.step()
    assert caplog.text.count('This AdamW steps layers of a SGD that WAU is attached to') == 1


def test_freezing_for_a_phase_is_logged_once_and_skips_in_the_other(caplog):
    """A discriminator stands still while the generator trains."""
    model = network()
    optimizer = OPTIMIZERS['sgd'](model.parameters())
    handle = attach(optimizer, model, hold='state')
    for update in range(6):
        model.requires_grad_(False)
        x = torch.randn(4, 3, 6, 6, requires_grad=True)
        model(x).sum().backward()
        model.requires_grad_(True)
        before = model[0].weight.detach().clone()
        loss_of(model, update).backward()
        assert not model[0].weight.grad.flatten(1).any(dim=1).all()
        optimizer.step()
        optimizer.zero_grad()
        assert int(model[0].weight.ne(before).flatten(1).any(dim=1).sum()) == 4
    assert handle.update_index == 6
    assert not caplog.records


def test_removing_between_forward_and_backward_gives_all_gradients():
    model = network()
    handle = attach(OPTIMIZERS['sgd'](model.parameters()), model, hold='state')
    loss = loss_of(model, 0)
    handle.remove()
    loss.backward()
    assert model[0].weight.grad.flatten(1).any(dim=1).all()


def test_an_interrupt_in_a_forward_pass_is_forgotten_in_the_next():
    model = network()
    attach(OPTIMIZERS['sgd'](model.parameters()), model, hold='state')

    def interrupt(*args):
        raise KeyboardInterrupt

    hook = model[3].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loss_of(model, 0)
    hook.remove()
    model.eval()
    loss_of(model, 0).backward()
    for index in (0, 3):
        assert model[index].weight.grad.flatten(1).any(dim=1).all()


def test_ctrl_c_in_a_forward_pass_leaves_the_model_as_it_was():
    class Interrupted(nn.Conv2d):
        def forward(self, x):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        model = network()
        model[3].__class__ = Interrupted
        params = list(model.parameters())
        options = dict(axis='layer', hold='state', min_active=0)
        attach(OPTIMIZERS['sgd'](params), model, 0.1, **options)
        with pytest.raises(KeyboardInterrupt):
            loss_of(model, 0)
        assert all(one is other for one, other in zip(model.parameters(), params, strict=True))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('axis', ['out', 'layer'])
def test_an_interrupt_at_the_beginning_of_an_update_leaves_no_selection_of_the_last(axis):
    model, plain = network(), network()
    optimizers = [OPTIMIZERS['sgd'](each.parameters()) for each in (model, plain)]
    handle, _ = (
        attach(optimizer, each, axis=axis, hold='state', seed=2)
        for optimizer, each in zip(optimizers, (model, plain), strict=True)
    )
    skipper = handle._updates.skipper
    select = skipper.select

    def interrupted(active):
        skipper.select = select
        raise KeyboardInterrupt

    for update in range(6):
        if update % 2:
            skipper.select = interrupted
            with pytest.raises(KeyboardInterrupt):
                loss_of(model, update)
        for each, optimizer in zip((model, plain), optimizers, strict=True):
            loss_of(each, update).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(model, plain)


def test_a_module_that_keeps_its_handle_is_copied_without():
    model = network()
    model.wau = attach(OPTIMIZERS['sgd'](model.parameters()), model, hold='state')
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.wau is None
        loss_of(twin, 0).backward()
        assert twin[0].weight.grad.flatten(1).any(dim=1).all()


def test_the_optimizer_can_be_freed():
    model = network()
    optimizer = OPTIMIZERS['adamw'](model.parameters())
    attach(optimizer, model, hold='state')
    train_plainly(model, optimizer, 1)
    reference = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert reference() is None
    loss_of(model, 0).backward()
    assert model[0].weight.grad.flatten(1).any(dim=1).all()
