from contextlib import nullcontext
from functools import wraps
from types import MethodType

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from mmwau import WAU, attach, find_layers
from mmwau.core.holds import can_step_active_alone, leaves_out_what_has_no_grad
from mmwau.core.slices import Layer, find_slices
from mmwau.skipping import HeldGradSkipper
from mmwau.wau import HOLDS


class Derived(torch.optim.SGD):
    """May look at a whole parameter, as LARS does."""


@pytest.mark.parametrize(
    ('make', 'alone'),
    [
        (lambda params: torch.optim.SGD(params, lr=0.1), True),
        (torch.optim.AdamW, True),
        (lambda params: Derived(params, lr=0.1), False),
        (torch.optim.Adagrad, False),  # its state starts above zero
        (torch.optim.Rprop, False),  # its step sizes start above zero
        (torch.optim.LBFGS, False),
    ],
)
def test_which_optimizers_step_active_slices_alone(make, alone):
    optimizer = make([nn.Parameter(torch.zeros(2, 2))])
    assert can_step_active_alone(optimizer) is alone


def test_an_optimizer_with_step_hooks_steps_over_everything():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2, 2))], lr=0.1)
    handle = optimizer.register_step_post_hook(lambda *args: None)
    assert not can_step_active_alone(optimizer)
    handle.remove()
    assert can_step_active_alone(optimizer)


class FromTheWeight(torch.optim.Optimizer):
    """Its state starts as a copy of the weight, as that of schedule-free optimizers does."""

    def __init__(self, params, lr, weight_decay):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                z = self.state[param].setdefault('z', param.clone())
                z.sub_(param.grad + group['weight_decay'] * param, alpha=group['lr'])
                param.lerp_(z, 0.5)


class FromOne(torch.optim.Optimizer):
    """Its squares start at one, as those of timm's RMSpropTF do."""

    def __init__(self, params, lr=0.1, alpha=0.9, momentum=0.9):
        super().__init__(params, dict(lr=lr, alpha=alpha, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                state = self.state[param]
                if not state:
                    state['step'] = 0
                    state['square'] = torch.ones_like(param)
                    state['buffer'] = torch.zeros_like(param)
                state['step'] += 1
                state['square'].lerp_(param.grad.square(), 1 - group['alpha'])
                step = param.grad / state['square'].add(1e-10).sqrt()
                state['buffer'].mul_(group['momentum']).add_(step)
                param.sub_(group['lr'] * state['buffer'])


class Factored(FromOne):
    """Its state has a row for several slices together."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                self.state[param]['rows'] = param.grad.square().mean(0)


class FromTheGradient(torch.optim.Optimizer):
    """Its first step is not like the others: it takes the difference to the gradient before."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                before = self.state[param].setdefault('before', param.grad.clone())
                param.sub_(group['lr'] * (2 * param.grad - before))
                before.copy_(param.grad)


class FromTheGradientByCounting(FromTheGradient):
    """The same, but it knows its first step by a counter, as Adan does."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for param in group['params']:
                state = self.state[param]
                state['step'] = state.get('step', 0) + 1
                if state['step'] == 1:
                    state['before'] = param.grad.clone()
                param.sub_(group['lr'] * (2 * param.grad - state['before']))
                state['before'].copy_(param.grad)


class InTrainMode(FromTheWeight):
    """Steps only in its train mode, as schedule-free optimizers do."""

    mode = 'eval'

    def train(self):
        self.mode = 'train'

    def step(self):
        assert self.mode == 'train'
        super().step()


def in_train_mode(params):
    optimizer = InTrainMode(params, lr=0.1, weight_decay=0.2)
    optimizer.train()
    return optimizer


class Around(torch.optim.Optimizer):
    """Around another optimizer, as Lookahead."""

    def __init__(self, base):
        super().__init__(base.param_groups, {})
        self.base = base

    def step(self):
        self.base.step()


@pytest.mark.parametrize(
    ('make', 'expected'),
    [
        (lambda params: FromOne(params, momentum=0.5), ['square 1', 'buffer 0']),
        (lambda params: FromTheWeight(params, lr=0.1, weight_decay=0.2), ['z weight']),
        (lambda params: Derived(params, lr=0.1, momentum=0.9), ['momentum_buffer 0']),
        (lambda params: in_train_mode(params), ['z weight']),
    ],
)
def test_a_slice_whose_turn_comes_late_steps_as_in_a_first_update(make, expected):
    """A filter that is first active in the second update moves as one does that starts then."""
    torch.manual_seed(0)
    conv, late = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(3, 8, 3, bias=False)
    late.load_state_dict(conv.state_dict())
    layers = find_layers(conv)
    mask = torch.tensor([True] * 4 + [False] * 4)
    optimizer, of_late = make(conv.parameters()), make(late.parameters())
    wau = WAU(hold='state')
    wau.check_optimizer(optimizer, layers)
    start = conv.weight.detach().clone()
    for active in (mask, ~mask):
        conv.weight.grad = torch.linspace(-1, 1, 216).view_as(conv.weight)
        with wau.holding(optimizer, layers, [active]):
            optimizer.step()
        if active is mask:
            state = optimizer.state[conv.weight]
            starts = {'0': 0, '1': 1, 'weight': start[4:]}
            for name, where in map(str.split, expected):
                assert torch.equal(state[name][4:], torch.zeros(4, 3, 3, 3) + starts[where])
    late.weight.grad = torch.linspace(-1, 1, 216).view_as(conv.weight)
    of_late.step()
    assert torch.equal(conv.weight, late.weight)
    for key, value in of_late.state[late.weight].items():
        if torch.is_tensor(value):
            assert torch.equal(optimizer.state[conv.weight][key], value)


@pytest.mark.parametrize(
    ('make', 'words'),
    [
        (
            lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.5),
            r'first step without dampening .* dampening=0\.5.*Set dampening=0',
        ),
        (FromTheGradient, r'first step of FromTheGradient is not like the others.*\(before\)'),
        (FromTheGradientByCounting, r'first step of FromTheGradientByCounting is not like the oth'),
        (Factored, r'one row for each slice; rows of Factored has not'),
        (torch.optim.Adafactor, r'first step of Adafactor is not like the others.*row_var'),
        (
            lambda params: Around(torch.optim.SGD(params, lr=0.1, momentum=0.9)),
            r"where the state of Around starts, but can't make another .*hold='weight'",
        ),
        (lambda params: torch.optim.Rprop(params), r"one row for each slice; Rprop's has not"),
    ],
)
def test_an_optimizer_whose_first_step_is_another_one_is_refused(make, words):
    conv = nn.Conv2d(3, 8, 3)
    optimizer = make(list(conv.parameters()))
    layers = find_layers(conv)
    with pytest.raises(ValueError, match=words):
        WAU(hold='state').check_optimizer(optimizer, layers)
    for hold in ('weight', 'grad'):
        WAU(hold=hold).check_optimizer(optimizer, layers)
    conv(torch.randn(2, 3, 6, 6)).square().mean().backward()
    start = conv.weight.detach().clone()
    active = WAU().select(layers, 0)
    if isinstance(optimizer, Around):
        return  # its state is inside of it, where nobody sees it made
    with pytest.raises(ValueError, match=words):  # noqa: SIM117
        with WAU(hold='state').holding(optimizer, layers, active):
            optimizer.step()
    assert torch.equal(conv.weight[~active[0]], start[~active[0]])


class Noisy(FromOne):
    def step(self):
        torch.randn(3)
        super().step()


@pytest.fixture
def steps_of_all_optimizers():
    steps = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: steps.append(type(optimizer)))
    yield steps
    hook.remove()


@pytest.mark.parametrize('kind', [FromOne, Noisy])
def test_looking_for_the_start_changes_nothing(kind, steps_of_all_optimizers):
    conv = nn.Conv2d(3, 8, 3)
    optimizer = kind(conv.parameters())
    before = [param.detach().clone() for param in conv.parameters()]
    random_state = torch.get_rng_state()
    WAU(hold='state').check_optimizer(optimizer, find_layers(conv))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not optimizer.state
    assert all(map(torch.equal, before, conv.parameters()))
    if kind is FromOne:  # the other one calls the step of its base, which has hooks of its own
        assert kind not in steps_of_all_optimizers


def test_hooks_on_all_optimizers_see_whole_parameters(steps_of_all_optimizers):
    optimizer = torch.optim.SGD(nn.Conv2d(3, 8, 3).parameters(), lr=0.1)
    assert not can_step_active_alone(optimizer)


def test_other_steps_see_whole_parameters():
    optimizer = torch.optim.SGD(nn.Conv2d(3, 8, 3).parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # which counts steps
    assert can_step_active_alone(optimizer)
    optimizer.step = lambda: None
    assert not can_step_active_alone(optimizer)


@pytest.mark.parametrize('axis', ['out', 'layer'])
@pytest.mark.parametrize('then', ['attach', 'schedule and attach', 'schedule'])
@pytest.mark.parametrize('hides', [False, True])
def test_a_step_that_was_replaced_before_moves_nothing_that_is_held(axis, then, hides):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if hides:  # behind something that only counts
        torch.optim.lr_scheduler.StepLR(optimizer, 100)
    own = optimizer.step

    @wraps(own)
    @torch.no_grad()
    def step(self, closure=None):
        for param in self.param_groups[0]['params']:
            param.mul_(1 - 1e-3 * float(param.norm()))
        return own()

    optimizer.step = MethodType(step, optimizer)
    if 'schedule' in then:
        torch.optim.lr_scheduler.StepLR(optimizer, 100)
    assert not can_step_active_alone(optimizer)
    assert not leaves_out_what_has_no_grad(optimizer)
    layers, wau = find_layers(model, axis=axis), WAU(hold='state', seed=0)
    if 'attach' in then:
        attach(optimizer, model, axis=axis, hold='state', seed=0)
        assert not can_step_active_alone(optimizer)
    for update in range(4):
        before = [conv.weight.detach().clone() for conv in model]
        model(torch.randn(2, 3, 8, 8)).square().mean().backward()
        active = wau.select(layers, update)
        with nullcontext() if 'attach' in then else wau.holding(optimizer, layers, active):
            optimizer.step()
        optimizer.zero_grad()
        for conv, weight, is_active in zip(model, before, active, strict=True):
            moved = conv.weight.ne(weight).flatten(1).any(dim=1)
            assert torch.equal(moved, is_active.expand(8))


def test_an_optimizer_around_another_one_is_refused_by_slices():
    class Averaged(torch.optim.Optimizer):
        def __init__(self, optim):
            super().__init__(optim.param_groups, {})
            self.optim = optim

        def step(self):
            self.optim.step()

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    optimizer = Averaged(torch.optim.SGD(model.parameters(), lr=0.1))
    for axis, is_refused in (('out', True), ('in', True), ('layer', False)):
        layers, wau = find_layers(model, axis=axis), WAU(hold='state')
        refused = pytest.raises(ValueError, match=r"what Averaged keeps beside the SGD.*hold='w")
        with refused if is_refused else nullcontext():
            wau.check_optimizer(optimizer, layers)
        with (
            refused if is_refused else nullcontext(),
            wau.holding(optimizer, layers, wau.select(layers, 0)),
        ):
            optimizer.step()


@pytest.mark.parametrize('hold', ['state', 'grad'])
def test_a_closure_inside_of_holding_is_refused(hold):
    conv = nn.Conv2d(3, 8, 3)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1)
    layers = find_layers(conv)
    wau = WAU(hold=hold)
    for arguments in ([lambda: 0], []):
        options = {} if arguments else dict(closure=lambda: 0)
        with (
            pytest.raises(ValueError, match=r"can't have a closure.*Call the closure first"),
            wau.holding(optimizer, layers, wau.select(layers, 0), {}),
        ):
            optimizer.step(*arguments, **options)
    assert not optimizer._optimizer_step_pre_hooks
    optimizer.step(lambda: 0)


@pytest.mark.parametrize('hold', HOLDS)
def test_what_another_optimizer_steps_is_left_to_it(hold):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    layers = find_layers(model)
    first = torch.optim.SGD(model[0].parameters(), lr=0.1)
    wau = WAU(hold=hold)
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    grads = [param.grad.clone() for param in model[1].parameters()]
    weights = [param.detach().clone() for param in model[1].parameters()]
    with wau.holding(first, layers, wau.select(layers, 0), {}):
        first.step()
    for param, grad in zip(model[1].parameters(), grads, strict=True):
        assert torch.equal(param.grad, grad)
    assert all(map(torch.equal, model[1].parameters(), weights))


def test_a_parameter_in_two_layers_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    layers = list(find_layers(model).values()) * 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wau = WAU()
    with pytest.raises(ValueError, match=r'each parameter once.*one call of find_layers'):  # noqa: SIM117
        with wau.holding(optimizer, layers, wau.select(layers, 0)):
            pass


def test_slices_of_each_parameter():
    weights = [nn.Parameter(torch.zeros(size, 2)) for size in (3, 1, 4)]
    bias = nn.Parameter(torch.zeros(3))
    layers = [
        Layer('a', 3, ((weights[0], 0), (bias, 0))),
        Layer('b', 1, ((weights[1], 0),)),
        Layer('c', 4, ((weights[2], 1),)),
    ]
    masks = [[True, False, True], [True], [False, False, True, False]]
    found = find_slices(layers, [torch.tensor(mask) for mask in masks])
    # All slices of b are active, so that nothing of it is held.
    assert [slices.param for slices in found] == [weights[0], bias, weights[2]]
    assert [slices.dim for slices in found] == [0, 0, 1]
    assert [slices.active.tolist() for slices in found] == [[0, 2], [0, 2], [2]]
    assert [slices.held.tolist() for slices in found] == [[1], [1], [0, 1, 3]]
    assert find_slices([], []) == []


class TestWholeLayers:
    def convolutions(self):
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5)))

    def train(self, model, optimizer, updates=8, **options):
        """Yield the parameters that are held, after each update under hold='state'."""
        layers, wau = find_layers(model, axis='layer'), WAU(hold='state', **options)
        for update in range(updates):
            x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(update))
            model(x).square().mean().backward()
            active = wau.select(layers, update)
            with wau.holding(optimizer, layers, active):
                optimizer.step()
            optimizer.zero_grad()
            masks = zip(layers.values(), active, strict=True)
            yield [param for layer, mask in masks for param, _ in layer.tensors if not mask]

    def test_fused_sgd_takes_first_and_later_steps_together(self):
        ends = []
        for fused in (False, True):
            model = self.convolutions()
            options = dict(lr=0.1, momentum=0.9, weight_decay=0.01, fused=fused)
            optimizer = torch.optim.SGD(model.parameters(), **options)
            list(self.train(model, optimizer))
            ends.append(list(model.parameters()))
        for one, other in zip(*ends, strict=True):
            torch.testing.assert_close(one, other)

    def test_fused_sgd_with_dampening_is_told(self):
        model = self.convolutions()
        options = dict(lr=0.1, momentum=0.9, dampening=0.1, fused=True)
        optimizer = torch.optim.SGD(model.parameters(), **options)
        with pytest.raises(ValueError, match='Set fused=False'):
            list(self.train(model, optimizer))

    def test_state_that_lies_in_one_flat_tensor_stays_in_it(self):
        class Flat(torch.optim.Optimizer):
            def __init__(self, params):
                super().__init__(params, {})
                params = self.param_groups[0]['params']
                self.sizes = [param.numel() for param in params]
                self.flat = torch.zeros(sum(self.sizes))
                for param, own in zip(params, self.flat.split(self.sizes), strict=True):
                    self.state[param]['momentum'] = own.view(param.shape)

            @torch.no_grad()
            def step(self):
                params = self.param_groups[0]['params']
                grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
                self.flat.mul_(0.9).add_(torch.cat([grad.flatten() for grad in grads]))
                for param, own in zip(params, self.flat.split(self.sizes), strict=True):
                    param.sub_(own.view(param.shape), alpha=0.1)

        model = self.convolutions()
        optimizer = Flat(model.parameters())
        before = optimizer.flat.clone()
        for held in self.train(model, optimizer):
            parts = optimizer.flat.split(optimizer.sizes), before.split(optimizer.sizes)
            for param, now, then in zip(model.parameters(), *parts, strict=True):
                is_held = any(param is one for one in held)
                assert torch.equal(now, then) == is_held
            before = optimizer.flat.clone()

    def test_lbfgs_is_refused_at_a_ratio_that_was_set_later(self):
        model = self.convolutions()
        optimizer = torch.optim.LBFGS(model.parameters())
        WAU(1, hold='state').check_optimizer(optimizer, find_layers(model, axis='layer'))
        with pytest.raises(ValueError, match='LBFGS has one for all of them together'):
            next(self.train(model, optimizer))

    def test_an_optimizer_around_another_one_moves_nothing_that_is_held(self):
        class Lookahead(torch.optim.Optimizer):
            def __init__(self, optim):
                super().__init__(optim.param_groups, {})
                self.optim, self.param_groups = optim, optim.param_groups

            @torch.no_grad()
            def step(self):
                self.optim.step()
                for param in self.param_groups[0]['params']:
                    slow = self.state[param].setdefault('slow', param.clone())
                    param.copy_(slow.lerp_(param + 0.1, 0.5))

        model = self.convolutions()
        optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))

        def everything(param):
            return repr((param, optimizer.state.get(param), optimizer.optim.state.get(param)))

        before = {param: everything(param) for param in model.parameters()}
        for held in self.train(model, optimizer):
            assert all(everything(param) == before[param] for param in held)
            before = {param: everything(param) for param in model.parameters()}


@pytest.mark.parametrize('hold', HOLDS)
def test_a_step_in_a_cuda_graph_is_refused(hold, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_initialized', lambda: True)
    monkeypatch.setattr('torch.cuda.is_current_stream_capturing', lambda: True)
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    optimizer, layers = torch.optim.SGD(model.parameters(), lr=0.1), find_layers(model)
    wau = WAU(hold=hold)
    with (
        pytest.raises(RuntimeError, match='captured in a CUDA graph'),
        wau.holding(optimizer, layers, wau.select(layers, 0)),
    ):
        pass


@pytest.mark.parametrize('axis', ['out', 'layer'])
def test_nothing_is_skipped_in_a_cuda_graph(axis, monkeypatch):
    monkeypatch.setattr('mmwau.core.narrow_convolution.MIN_SAVED', 0)
    monkeypatch.setattr('torch.cuda.is_initialized', lambda: True)
    monkeypatch.setattr('torch.cuda.is_current_stream_capturing', lambda: True)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))
    layers = find_layers(model, axis=axis)
    skipper = HeldGradSkipper(model, layers)
    with skipper.skipping(WAU(hold='state').select(layers, 0)):
        model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    for param in model.parameters():
        assert param.grad.view(len(param), -1).any(dim=1).all()
