"""Whole layers as slices, ``axis='layer'``: selection, what is held, and what is not computed."""

import copy
import itertools
import math
from collections import Counter

import pytest
import torch
from hooks import scalars
from hypothesis import given
from hypothesis import strategies as st
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack
from small import SmallModel, small_runner
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mmwau import WAU, HeldGradSkipper, attach, find_layers, reference
from mmwau.core.random_numbers import random_numbers
from mmwau.core.slices import Layer
from mmwau.wau import HOLDS, SAMPLERS

KINDS = {
    'plain': lambda: nn.Conv2d(4, 6, 3, padding=1),
    'grouped': lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    'depthwise': lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1, bias=False),
    'transposed': lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    'reflected': lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode='reflect'),
    'even': lambda: nn.Conv2d(4, 6, 2, padding='same'),
    'deformable': lambda: DeformConv2dPack(4, 6, 3, padding=1),
    'modulated': lambda: ModulatedDeformConv2dPack(4, 6, 3, padding=1),
    'spectral': lambda: parametrizations.spectral_norm(nn.Conv2d(4, 6, 3, padding=1)),
    'weight_norm': lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3, padding=1)),
    'old_weight_norm': lambda: nn.utils.weight_norm(nn.Conv2d(4, 6, 3, padding=1)),
}


class Network(nn.Module):
    """Convolutions one after another with norm layers between, and a linear layer."""

    def __init__(self, num_convs=6, checkpointed=False):
        super().__init__()
        torch.manual_seed(0)
        widths = [3] + [6] * num_convs
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(num_convs))
        self.head = nn.Linear(6, 2)
        self.checkpointed = checkpointed

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = checkpoint(conv, x, use_reentrant=False) if self.checkpointed else conv(x)
            x = norm(x).relu()
        return self.head(x.mean(dim=(2, 3)))


def loss_of(model, update):
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(update))
    return model(x).square().sum()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


class Watch(TorchDispatchMode):
    """Counts the gradients that convolutions compute, of their inputs and of their weights."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            of_input, of_weight, of_bias = args[-1]
            self.counts.update(input=of_input, weight=of_weight, bias=of_bias)
        return function(*args, **(kwargs or {}))


class TestSelection:
    @given(
        st.integers(1, 60),
        st.sampled_from(SAMPLERS),
        st.floats(0.01, 1),
        st.integers(0, 10**6),
        st.integers(0, 1),
    )
    def test_agrees_with_the_reference(self, num_layers, sampler, ratio, update, min_active):
        layers = [Layer(f'conv{place}.weight', 1, (), True) for place in range(num_layers)]
        rule = dict(sampler=sampler, min_active=min_active, seed=3)
        slow = reference.WAUReference(None, layers, ratio, **rule)
        slow.update = update
        active = WAU(ratio, **rule).select(layers, update)
        assert [mask.tolist() for mask in active] == slow.select_all()
        if sampler == 'uniform' and ratio < 1:
            assert sum(map(int, active)) == max(min_active, round(ratio * num_layers))

    def test_cyclic_moves_every_layer_equally_often(self):
        layers = find_layers(Network(6), axis='layer')
        wau = WAU(0.25, sampler='cyclic')  # 2 of 6 layers: a round has 3 turns
        drawn = torch.stack([torch.cat(wau.select(layers, update)) for update in range(30)])
        assert drawn.view(10, 3, 6).sum(dim=1).eq(1).all()

    def test_does_not_mix_with_slices_of_layers(self):
        layers = [Layer('a', 1, (), True), Layer('b', 3, ())]
        with pytest.raises(ValueError, match=r'some have slices and some are whole \(axis='):
            WAU().select(layers, 0)


class TestTargets:
    @pytest.mark.parametrize('kind', KINDS)
    def test_a_layer_is_every_parameter_of_its_convolution(self, kind):
        model = nn.Sequential(KINDS[kind]())
        layers = find_layers(model, axis='layer')
        held = [param for layer in layers.values() for param, _ in layer.tensors]
        assert {id(param) for param in held} == {id(param) for param in model.parameters()}
        assert all(layer.is_whole and layer.num_slices == 1 for layer in layers.values())

    def test_frozen_and_shared_layers_are_left_out(self):
        model = Network(4)
        model.convs[0].requires_grad_(False)
        model.convs[2].weight = model.convs[1].weight
        model.convs[3].bias.requires_grad_(False)
        layers = find_layers(model, axis='layer')
        assert list(layers) == ['convs.1', 'convs.3']
        assert [len(layer.tensors) for layer in layers.values()] == [2, 1]
        optimizer = torch.optim.SGD(
            [dict(params=model.convs[1].parameters(), lr=0), dict(params=model.convs[3].weight)],
            0.1,
        )
        assert list(find_layers(model, axis='layer', optimizer=optimizer)) == ['convs.3']

    def test_counts_filters_and_parameters(self):
        layer = find_layers(nn.ConvTranspose2d(4, 6, 3), axis='layer')['']
        assert (layer.num_filters, layer.num_parameters) == (6, 4 * 6 * 9 + 6)


class TestHolding:
    def test_is_the_second_way_of_the_authors(self):
        """Restated: the drawn convolutions alone are in the optimizer's parameter group."""
        ours, theirs = Network(), Network()
        optimizer = sgd(ours)
        attached = attach(
            optimizer,
            ours,
            axis='layer',
            sampler='with_replacement',
            hold='state',
            min_active=0,
            seed=5,
        )
        named = dict(theirs.named_parameters())
        convolutions = [f'convs.{place}' for place in range(6)]
        rest = [param for name, param in named.items() if 'convs' not in name]
        momentum = {}
        for update in range(60):
            optimizer.zero_grad()
            loss_of(ours, update).backward()
            optimizer.step()
            theirs.zero_grad()
            loss_of(theirs, update).backward()
            # Their random.choices, with our random numbers.
            names = [f'{name}.weight' for name in convolutions]
            numbers = random_numbers([f'5/{update}'] * 6, names, [1] * 6).tolist()
            drawn = {convolutions[math.floor(number * 6)] for number in numbers[:3]}
            chosen = [named[f'{name}.{part}'] for name in drawn for part in ('weight', 'bias')]
            step = torch.optim.SGD([*rest, *chosen], lr=0.1, momentum=0.9, weight_decay=0.01)
            for param in step.param_groups[0]['params']:
                if param in momentum:
                    step.state[param]['momentum_buffer'] = momentum[param]
            step.step()
            momentum.update({p: s['momentum_buffer'] for p, s in step.state.items()})
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                assert torch.equal(one, other)
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                own = optimizer.state[one].get('momentum_buffer')
                assert other not in momentum or torch.equal(own, momentum[other])
        attached.remove()

    def test_counters_of_adam_are_held_too(self):
        model = Network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        layers, wau, moved = find_layers(model, axis='layer'), WAU(hold='state'), Counter()
        for update in range(7):
            loss_of(model, update).backward()
            active = wau.select(layers, update)
            with wau.holding(optimizer, layers, active):
                optimizer.step()
            optimizer.zero_grad()
            moved.update(name for name, mask in zip(layers, active, strict=True) if mask)
        for name, layer in layers.items():
            assert [int(optimizer.state[p]['step']) for p, _ in layer.tensors] == [moved[name]] * 2

    @pytest.mark.parametrize('hold', ['weight', 'state'])
    def test_optimizers_that_move_what_has_no_gradient_are_undone(self, hold):
        class Drifting(torch.optim.SGD):
            def step(self, closure=None):
                super().step()
                for group in self.param_groups:
                    for param in group['params']:
                        param.data.mul_(0.9)
                        self.state[param]['steps'] = self.state[param].get('steps', 0) + 1

        model = Network()
        optimizer = Drifting(model.parameters(), lr=0.1, momentum=0.9)
        layers, wau = find_layers(model, axis='layer'), WAU(hold=hold)
        for update in range(4):
            loss_of(model, update).backward()
            active = wau.select(layers, update)
            before = copy.deepcopy([(p.data, optimizer.state.get(p)) for p in model.parameters()])
            with wau.holding(optimizer, layers, active):
                optimizer.step()
            known = dict(zip(model.parameters(), before, strict=True))
            for layer, mask in zip(layers.values(), active, strict=True):
                for param, _ in layer.tensors:
                    weight, state = known[param]
                    assert torch.equal(param, weight) != bool(mask)
                    if hold == 'state' and not mask:
                        assert repr(optimizer.state.get(param)) == repr(state)
            optimizer.zero_grad()

    def test_lbfgs_is_refused(self):
        model = Network()
        optimizer = torch.optim.LBFGS(model.parameters())
        with pytest.raises(ValueError, match='LBFGS has one for all of them together'):
            attach(optimizer, model, axis='layer', hold='state')
        attach(optimizer, model, axis='layer', hold='weight').remove()
        rprop = torch.optim.Rprop(model.parameters())
        attach(rprop, model, axis='layer', hold='state').remove()


class TestSkipping:
    @pytest.mark.parametrize('hold', ['state', 'grad'])
    @pytest.mark.parametrize('kind', KINDS)
    def test_trains_every_kind_as_without_skipping(self, kind, hold):
        models = []
        for _ in range(2):
            torch.manual_seed(1)
            first = KINDS[kind]()
            width = first(torch.zeros(1, 4, 8, 8)).size(1)
            parts = first, nn.Conv2d(width, 4, 1), nn.ReLU(), KINDS[kind](), nn.ReLU()
            models.append(nn.Sequential(*parts))
        optimizers = [sgd(model) for model in models]
        options = dict(axis='layer', hold=hold, seed=0)
        handles = [
            attach(optimizer, model, skip_held_grads=skips, **options)
            for optimizer, model, skips in zip(optimizers, models, (False, True), strict=True)
        ]
        for update in range(8):
            x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(update))
            for model, optimizer in zip(models, optimizers, strict=True):
                model(x).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            for (name, one), other in zip(
                models[0].named_parameters(), models[1].parameters(), strict=True
            ):
                assert isinstance(other, nn.Parameter)
                assert torch.equal(one, other), (update, name)
        for handle in handles:
            handle.remove()
        assert all('forward' not in module.__dict__ for module in models[1].modules())

    @pytest.mark.parametrize('way', ['skipper', 'attach'])
    def test_no_gradient_of_a_held_layer_is_computed(self, way):
        model = Network()
        optimizer = sgd(model)
        layers = find_layers(model, axis='layer')
        wau = WAU(0.5, hold='state')
        if way == 'attach':
            attach(optimizer, model, 0.5, axis='layer', hold='state', seed=0)
        else:
            skipper = HeldGradSkipper(model, layers, full_grads=False)
        for update in range(3):
            active = wau.select(layers, update)
            with Watch() as watch:
                if way == 'attach':
                    loss_of(model, update).backward()
                else:
                    with skipper.skipping(active):
                        loss_of(model, update).backward()
            assert watch.counts == dict(input=5, weight=3, bias=3)
            for layer, mask in zip(layers.values(), active, strict=True):
                assert all((param.grad is not None) == bool(mask) for param, _ in layer.tensors)
            if way == 'attach':
                optimizer.step()
            else:
                with wau.holding(optimizer, layers, active, skipper.grads):
                    optimizer.step()
            optimizer.zero_grad()

    def test_gradients_of_inputs_go_too_where_nothing_before_trains(self):
        model = Network()
        model.norms.requires_grad_(False)
        layers = find_layers(model, axis='layer')
        skipper = HeldGradSkipper(model, layers, full_grads=False)
        active = [torch.tensor([place >= 4]) for place in range(6)]
        with skipper.skipping(active), Watch() as watch:
            loss_of(model, 0).backward()
        assert watch.counts == dict(input=1, weight=2, bias=2)

    @pytest.mark.parametrize('options', [dict(), dict(checkpointed=True)])
    def test_accumulation_and_checkpointing(self, options):
        models = [Network(**options), Network(**options)]
        optimizers = [sgd(model) for model in models]
        for skips, model, optimizer in zip((False, True), models, optimizers, strict=True):
            attach(optimizer, model, axis='layer', hold='state', seed=0, skip_held_grads=skips)
        for update in range(5):
            for model, optimizer in zip(models, optimizers, strict=True):
                for iteration in range(3):
                    loss_of(model, 3 * update + iteration).backward()
                optimizer.step()
                optimizer.zero_grad()
        assert all(map(torch.equal, *(model.parameters() for model in models)))

    def test_autocast(self):
        models = [Network(), Network()]
        optimizers = [sgd(model) for model in models]
        for skips, model, optimizer in zip((False, True), models, optimizers, strict=True):
            attach(optimizer, model, axis='layer', hold='state', seed=0, skip_held_grads=skips)
        for update in range(5):
            for model, optimizer in zip(models, optimizers, strict=True):
                with torch.autocast('cpu', torch.bfloat16):
                    loss = loss_of(model, update)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        assert all(map(torch.equal, *(model.parameters() for model in models)))

    def test_compiles_once(self):
        model = Network(2)
        layers = find_layers(model, axis='layer')
        skipper = HeldGradSkipper(model, layers, full_grads=False)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(model, backend='eager')
        for update in range(6):
            with skipper.skipping(WAU(0.5, sampler='bernoulli').select(layers, update)):
                loss_of(compiled, update).backward()
        assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1

    def test_a_failed_forward_pass_leaves_the_parameters(self):
        model = Network()
        params = list(model.parameters())
        optimizer = sgd(model)
        attach(optimizer, model, axis='layer', hold='state', seed=0)
        with pytest.raises(RuntimeError):
            model(torch.randn(4, 3, 8, 8, dtype=torch.float64))
        assert all(one is other for one, other in zip(model.parameters(), params, strict=True))

    def test_copies_made_inside_are_plain(self):
        model = Network()
        layers = find_layers(model, axis='layer')
        skipper = HeldGradSkipper(model, layers, full_grads=False)
        with skipper.skipping([torch.tensor([False])] * 6):
            twin = copy.deepcopy(model)
        loss_of(twin, 0).backward()
        assert all(param.grad is not None for param in twin.parameters())


@pytest.mark.parametrize('hold', HOLDS)
def test_a_runner_trains_resumes_and_logs(tmp_path, hold):
    wrapper = dict(type='WAUOptimWrapper', axis='layer', hold=hold, update_ratio=0.5)
    hooks = [dict(type='WAUHook')]
    whole = small_runner(tmp_path / 'whole', wrapper, hooks, max_epochs=3)
    whole.train()
    first = small_runner(tmp_path / 'parts', wrapper, hooks, max_epochs=1)
    first.train()
    second = small_runner(
        tmp_path / 'parts',
        wrapper,
        hooks,
        max_epochs=3,
        load_from=str(tmp_path / 'parts' / 'epoch_1.pth'),
        resume=True,
    )
    second.train()
    assert all(map(torch.equal, whole.model.parameters(), second.model.parameters()))
    entries = scalars(tmp_path / 'whole', 'active_fraction')
    assert [entry['active_fraction'] for entry in entries] == [0.5] * 9
    sizes = {8: 8 * 4 * 9, 6: 8 * 6 + 6}  # filters and parameters of backbone and neck
    for entry in entries:
        assert entry['active_filter_fraction'] in (8 / 14, 6 / 14)
        filters = round(entry['active_filter_fraction'] * 14)
        expected = sizes[filters] / sum(sizes.values())
        assert entry['active_parameter_fraction'] == pytest.approx(expected)
    text = next((tmp_path / 'whole').glob('*/*.log')).read_text()
    assert 'WAU holds whole layers, which are 2 convolutions' in text
    assert 'with 14 filters and 342 parameters' in text


def test_the_wrapper_computes_no_gradient_of_held_layers(tmp_path):
    class Counting(SmallModel):
        seen = []  # noqa: RUF012

        def train_step(self, data, optim_wrapper):
            with Watch() as watch:
                result = super().train_step(data, optim_wrapper)
            self.seen.append(watch.counts['weight'])
            return result

    wrapper = dict(type='WAUOptimWrapper', axis='layer', hold='state', update_ratio=0.5)
    small_runner(tmp_path, wrapper, model=Counting(), max_epochs=1).train()
    # One of backbone and neck, and the head, of three that train.
    assert Counting.seen == [2, 2, 2]


def test_at_a_ratio_that_draws_no_layer_the_log_says_so(caplog):
    model = Network(1)
    with caplog.at_level('WARNING', 'mmwau'):
        attach(sgd(model), model, 0.4, axis='layer', sampler='with_replacement', min_active=0)
    assert 'draws from 1 layers is rounded to 0, so that none ever moves' in caplog.text
