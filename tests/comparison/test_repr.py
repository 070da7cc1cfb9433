from itertools import pairwise

import pytest
import torch
from hooks import StopAfter, assert_plain, log
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from small import SmallModel, small_runner
from torch import nn

from mmwau import RePrHook
from mmwau.comparison.repr import orthogonal_filters, rank, restart
from mmwau.overlap import filter_overlap

PLAIN = dict(type='OptimWrapper')
SHORT = dict(type='RePrHook', full_epochs=1, sub_epochs=2, cycles=2)


def drawn(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Watch(Hook):
    """Keeps weights and norm layer before each step, after it, and the momentum."""

    priority = 'LOWEST'

    def __init__(self):
        self.steps, self.outputs = [], []

    def before_train(self, runner):
        hook = lambda module, args, output: self.outputs.append(output.detach().clone())  # noqa: E731
        self.handle = runner.model.backbone[2].register_forward_hook(hook)

    def look(self, runner):
        state = {name: value.clone() for name, value in runner.model.state_dict().items()}
        optimizer = runner.optim_wrapper.optimizer.state
        momentum = {
            name: optimizer[param]['momentum_buffer'].clone()
            for name, param in runner.model.named_parameters()
            if param in optimizer
        }
        repr_hook = next(hook for hook in runner.hooks if isinstance(hook, RePrHook))
        dropped = repr_hook.state.get('dropped', {})
        return state, momentum, {name: index.tolist() for name, index in dropped.items()}

    def before_train_iter(self, runner, *args, **kwargs):
        self.before = self.look(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        self.steps.append((self.before, self.look(runner)))


@pytest.fixture(scope='module', params=[1, 2], ids=['each', 'accumulation'])
def watched(request, tmp_path_factory):
    """Two cycles of one epoch (3 iterations) in full and two without the dropped filters."""
    watch = Watch()
    wrapper = dict(PLAIN, accumulative_counts=request.param)
    work_dir = tmp_path_factory.mktemp('repr')
    small_runner(work_dir, wrapper, [SHORT, watch], max_epochs=7).train()
    return watch, log(work_dir)


def test_filters_that_overlap_most_are_dropped_in_the_stages_without_them(watched):
    watch, _ = watched
    has_dropped = [bool(before[2]) for before, _ in watch.steps]
    assert has_dropped == [False] * 3 + [True] * 6 + [False] * 3 + [True] * 6 + [False] * 3
    for start in (3, 12):
        # Ranked as the step before left them.
        weights = watch.steps[start - 1][1][0]
        overlaps = {
            name: filter_overlap(weights[f'{name}.weight']).tolist()
            for name in ('backbone.1', 'neck')
        }
        every = sorted(
            (
                (value, name, place)
                for name, values in overlaps.items()
                for place, value in enumerate(values)
                if value != min(values)
            ),
            reverse=True,
        )
        chosen = {name: [] for name in overlaps}
        for _, name, place in every[: round(0.3 * 14)]:
            chosen[name].append(place)
        expected = {name: sorted(places) for name, places in chosen.items() if places}
        assert watch.steps[start][0][2] == expected


def test_what_is_dropped_stays_zero_through_momentum_and_weight_decay(watched):
    watch, _ = watched
    for (state, _, dropped), (after, _, _) in watch.steps:
        for values in (state, after):
            for name, index in dropped.items():
                keys = [f'{name}.weight']
                keys += (
                    ['neck.bias'] if name == 'neck' else ['backbone.2.weight', 'backbone.2.bias']
                )
                for key in keys:
                    assert not values[key][index].any()
                    assert values[key].count_nonzero()
    moved = [
        not state['backbone.1.weight'].equal(after['backbone.1.weight'])
        for (state, _, _), (after, _, _) in watch.steps
    ]
    assert any(moved[3:9])


def test_nothing_comes_out_of_a_dropped_channel(watched):
    watch, _ = watched
    seen = False
    for (_, _, dropped), output in zip((b for b, _ in watch.steps), watch.outputs, strict=True):
        index = dropped.get('backbone.1', [])
        seen |= bool(index)
        assert not output[:, index].any()
        assert output[:, [place for place in range(8) if place not in index]].any()
    assert seen


def test_dropped_filters_begin_anew_orthogonal_and_with_no_momentum(watched):
    watch, _ = watched
    for start, end in ((3, 9), (12, 18)):
        old, last, now = watch.steps[start - 1][1][0], watch.steps[end - 1][1], watch.steps[end][0]
        for name, index in last[2].items():
            key = f'{name}.weight'
            stayed = [place for place in range(len(now[0][key])) if place not in index]
            # What stayed goes on as it was.
            assert now[0][key][stayed].equal(last[0][key][stayed])
            rows = nn.functional.normalize(now[0][key].flatten(1).double())
            former = nn.functional.normalize(old[key].flatten(1).double())
            for place in index:
                assert abs(rows[place] @ former[place]) < 1e-6
                if (
                    name == 'backbone.1'
                ):  # the neck has 6 filters of 8 values: directions are free there too
                    assert (rows[stayed] @ rows[place]).abs().max() < 1e-6
            length = last[0][key][stayed].flatten(1).norm(dim=1).mean()
            torch.testing.assert_close(
                now[0][key][index].flatten(1).norm(dim=1), length.expand(len(index))
            )
            assert not now[1][key][index].any()
            assert now[1][key][stayed].any()
            if name == 'backbone.1':
                assert (now[0]['backbone.2.weight'][index] == 1).all()
                assert (now[0]['backbone.2.running_var'][index] == 1).all()
                assert not now[0]['backbone.2.bias'][index].any()
                assert not now[0]['backbone.2.running_mean'][index].any()
                assert not now[1]['backbone.2.bias'][index].any()
            else:
                assert not now[0]['neck.bias'][index].any()


def test_the_log_shows_what_is_dropped_and_what_begins_anew(watched):
    _, text = watched
    assert 'RePr: cycle 1 of 2 drops 4 of 14 filters until epoch 3: ' in text
    assert text.count('RePr: 4 filters begin anew\n') == 2


@pytest.mark.parametrize('by_setting', [True, False], ids=['setting', 'method'])
@pytest.mark.parametrize('stop', [1, 2, 3])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, stop, by_setting):
    # It stops just before filters are dropped, in the stage without them, and just after it.
    hooks = [dict(SHORT, cycles=1)]
    whole = small_runner(tmp_path / 'whole', PLAIN, hooks, max_epochs=4)
    whole.train()
    parts = small_runner(tmp_path / 'parts', PLAIN, hooks, max_epochs=4)
    parts.register_hook(StopAfter(stop))
    with pytest.raises(KeyboardInterrupt):
        parts.train()
    parts = small_runner(tmp_path / 'parts', PLAIN, hooks, max_epochs=4, resume=by_setting)
    if not by_setting:
        parts.resume(str(tmp_path / f'parts/epoch_{stop}.pth'))
    parts.train()
    assert parts.iter == whole.iter
    one, two = whole.model.state_dict(), parts.model.state_dict()
    assert all(one[name].equal(two[name]) for name in one)
    states = [run.optim_wrapper.optimizer.state_dict()['state'] for run in (whole, parts)]
    for index, state in states[0].items():
        assert state['momentum_buffer'].equal(states[1][index]['momentum_buffer'])


def test_filters_of_a_module_with_two_names_are_dropped(tmp_path):
    class Named(SmallModel):
        def __init__(self):
            super().__init__()
            self.trunk = self.backbone

    watch, hook = Watch(), dict(SHORT, cycles=1, targets='trunk', skip_first=False)
    small_runner(tmp_path, PLAIN, [hook, watch], max_epochs=4, model=Named()).train()
    weights, _, dropped = watch.steps[5][1]
    (index,) = dropped.values()
    assert len(index) == 2
    assert not weights['trunk.1.weight'][index].any()


@pytest.mark.parametrize('epochs', [2, 3, 4])
def test_a_training_that_is_stopped_without_its_dropped_filters_says_so(tmp_path, epochs):
    class StopEarly(Hook):
        def after_train_epoch(self, runner):
            runner.train_loop.stop_training = runner.epoch + 1 == epochs

    hooks = [dict(SHORT, cycles=1), StopEarly()]
    runner = small_runner(tmp_path, PLAIN, hooks, max_epochs=5)
    runner.train()
    assert runner.epoch == epochs
    said = f'WARNING - RePrHook: training ended after epoch {epochs} with a part of the netw'
    assert (said in log(tmp_path)) is (epochs < 4)


def test_a_resumed_run_can_have_other_layers(tmp_path):
    hooks = [dict(SHORT, targets='neck')]
    parts = small_runner(tmp_path, PLAIN, hooks, max_epochs=7)
    parts.register_hook(StopAfter(2))
    with pytest.raises(KeyboardInterrupt):
        parts.train()
    runner = small_runner(tmp_path, PLAIN, [SHORT], max_epochs=7, resume=True)
    runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, RePrHook))
    assert hook.state['norms'] == {'neck': [], 'backbone.1': ['backbone.2']}
    text = log(tmp_path)
    # A third of the neck's 6 filters begins anew in the run that has other layers too.
    assert 'drops 2 of 6 filters until epoch 3' in text
    assert 'RePr: 2 filters begin anew' in text
    assert 'RePr: cycle 2 of 2 drops 4 of 14 filters until epoch 6' in text
    assert 'RePr: 4 filters begin anew' in text


def test_the_checkpoint_holds_plain_things_and_a_start_from_it_is_no_resume(tmp_path):
    hooks = [dict(SHORT, cycles=1)]
    small_runner(tmp_path / 'one', PLAIN, hooks, max_epochs=4).train()
    path = tmp_path / 'one/epoch_2.pth'
    entry = torch.load(path, weights_only=False)['RePrHook']
    assert entry['phase'] == 0
    assert set(entry['state']) == {'norms', 'dropped', 'former'}
    assert_plain(entry)
    small_runner(tmp_path / 'two', PLAIN, hooks, max_epochs=4, load_from=str(path)).train()
    # Nothing is brought back but what this run dropped itself.
    assert log(tmp_path / 'two').count('begin anew') == 1


class Branches(BaseModel):
    """A norm layer after its convolution, one after a sum, one convolution with none."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.two = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.after_sum = nn.BatchNorm2d(4)
        self.group = nn.Conv2d(4, 4, 3, groups=2)
        self.group_norm = nn.GroupNorm(2, 4)
        self.depthwise = nn.Conv2d(4, 4, 1, groups=4)

    def forward(self, inputs, target, mode='tensor'):
        # Norm layers take keywords too.
        x = self.norm(input=self.one(input=self.stem(inputs))).relu()
        y = self.two(x)
        y += x
        output = self.depthwise(self.group_norm(self.group(self.after_sum(y)))).mean(dim=(1, 2, 3))
        return {'loss': (output - target).square().mean()} if mode == 'loss' else output


def test_norm_layers_are_found_by_what_they_take(tmp_path):
    hook = RePrHook(full_epochs=1, sub_epochs=1, cycles=1, targets='', drop_ratio=0.5)
    model = Branches()
    runner = small_runner(tmp_path, PLAIN, [hook], max_epochs=3, model=model)
    runner.train()
    assert hook.state['norms'] == {'one': ['norm'], 'two': [], 'group': ['group_norm']}
    # The first convolution and the depthwise one are not among the ranked.
    assert 'drops 6 of 12 filters' in log(tmp_path)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not runner.optim_wrapper.optimizer._optimizer_step_post_hooks


@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 9), st.integers(0, 99))
def test_new_filters_are_orthogonal_as_long_as_there_is_room(kept, dropped, values, seed):
    rows, former, draws = (
        drawn(seed + k, n, values) for k, n in enumerate((kept, dropped, dropped))
    )
    if kept > 2:
        rows[2] = rows[0] - rows[1]  # of three filters in one plane
    found, orthogonal = orthogonal_filters(rows, former, draws)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(dropped, dtype=torch.float64))

    def dimensions(*parts):
        return torch.linalg.matrix_rank(torch.cat(parts), rtol=1e-7).item()

    for place in range(dropped):
        old, new = former[place : place + 1], found[place]
        assert (old @ new).abs() < 1e-8 * old.norm()
        assert orthogonal[place] == (dimensions(rows, old) < values)
        if orthogonal[place]:
            assert (rows @ new).abs().max() < 1e-8 * rows.norm(dim=1).max()
        if dimensions(rows, found[:place], old) < values:
            assert (found[:place] @ new).abs().sum() < 1e-8


def test_new_filters_are_orthogonal_to_short_ones_too():
    rows, former, draws = drawn(0, 3, 8), drawn(1, 2, 8), drawn(2, 2, 8)
    scales = torch.tensor([1e-30, 1.0, 1e30], dtype=torch.float64)[:, None]
    found, orthogonal = orthogonal_filters(rows * scales, former * 1e-30, draws)
    assert orthogonal.all()
    assert (rows @ found.T).abs().max() < 1e-8
    assert (former * found).sum(dim=1).abs().max() < 1e-8


def test_filters_of_one_value_begin_anew_all_the_same():
    found, orthogonal = orthogonal_filters(drawn(0, 1, 1), drawn(1, 2, 1), drawn(2, 2, 1))
    assert found.abs().tolist() == [[1], [1]]
    assert not orthogonal.any()


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.floats(0.01, 0.99))
def test_ranking_is_over_all_layers_and_leaves_each_a_filter(sizes, ratio):
    overlaps = [drawn(place, size).abs() for place, size in enumerate(sizes)]
    chosen = rank(overlaps, ratio)
    count = min(round(ratio * sum(sizes)), sum(sizes) - len(sizes))
    assert sum(map(len, chosen)) == count
    dropped = [overlap[index] for overlap, index in zip(overlaps, chosen, strict=True)]
    for overlap, index in zip(overlaps, chosen, strict=True):
        assert overlap.argmin() not in index
        assert all(one < following for one, following in pairwise(index.tolist()))
        stayed = [
            value
            for place, value in enumerate(overlap.tolist())
            if place not in index and place != overlap.argmin()
        ]
        if count and stayed:
            assert max(stayed) <= torch.cat(dropped).min()


@pytest.mark.parametrize(
    ('conv', 'index', 'peers'),
    [
        (nn.Conv2d(8, 6, 3, groups=2), [0, 4, 5], {0: [1, 2], 4: [3], 5: [3]}),
        (nn.ConvTranspose2d(5, 4, 3), [1, 3], {1: [0, 2], 3: [0, 2]}),
        (nn.Conv1d(4, 4, 5), [2], {2: [0, 1, 3]}),
        (nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last), [0], {0: [1, 2, 3]}),
    ],
    ids=['groups', 'transposed', '1d', 'channels_last'],
)
def test_filters_of_all_kinds_of_convolutions_begin_anew(conv, index, peers):
    dim = int(isinstance(conv, nn.ConvTranspose2d))
    old = conv.weight.detach().movedim(dim, 0).flatten(1).clone()
    with torch.no_grad():
        conv.weight.index_fill_(dim, torch.tensor(index), 0)
    assert restart(conv, index, old[index], 'time', 'name') == 0
    new = conv.weight.detach().movedim(dim, 0).flatten(1)
    stayed = [place for place in range(len(old)) if place not in index]
    assert new[stayed].equal(old[stayed])
    for place, others in peers.items():
        assert (new[[*others, *set(index) & set(others)]] @ new[place]).abs().max() < 1e-6
        assert abs(old[place] @ new[place]) < 1e-6
        assert new[place].norm() == pytest.approx(old[stayed].norm(dim=1).mean().item())


def test_a_layer_with_no_room_says_so():
    conv = nn.Conv2d(2, 8, 1, bias=False)
    old = conv.weight.detach().flatten(1).clone()
    assert restart(conv, [0, 1], old[:2], 'time', 'name') == 2
    new = conv.weight.detach().flatten(1)
    assert (new[:2] * old[:2]).sum(dim=1).abs().max() < 1e-6


@pytest.mark.parametrize(
    ('options', 'error', 'words'),
    [
        (dict(full_epochs=0), ValueError, r'full_epochs must be at least 1 .* got 0'),
        (dict(sub_epochs=2.5), TypeError, r'sub_epochs must be an integer .* got 2.5'),
        (dict(cycles=True), TypeError, r'cycles must be an integer .* got True'),
        (dict(drop_ratio=1), ValueError, r'drop_ratio must be in \(0, 1\), .* got 1'),
        (dict(drop_ratio='half'), TypeError, r"drop_ratio must be a number .* got 'half'"),
        (dict(skip_first=1), TypeError, r'skip_first must be True or False, got 1'),
        (dict(targets=3), TypeError, r'targets must be module-name prefixes'),
    ],
)
def test_wrong_arguments_are_reported(options, error, words):
    with pytest.raises(error, match=words):
        RePrHook(**options)


@pytest.mark.parametrize(
    ('wrapper', 'hooks', 'options', 'error', 'words'),
    [
        (
            dict(type='WAUOptimWrapper'),
            [SHORT],
            {},
            TypeError,
            r"RePrHook and WAUOptimWrapper each decide .* optim_wrapper.type to 'OptimWrapper'",
        ),
        (
            PLAIN,
            [SHORT, dict(type='DSDHook', begin=1, end=2)],
            {},
            ValueError,
            r'custom_hooks has RePrHook and DSDHook, each of which',
        ),
        (
            PLAIN,
            [SHORT],
            dict(max_epochs=6),
            ValueError,
            r'before epoch 6, counted from 0, but training ends after 6 epochs',
        ),
        (PLAIN, [dict(SHORT, targets='trunk')], {}, ValueError, r"targets=\('trunk',\)"),
        (PLAIN, [dict(SHORT, targets='backbone.0')], {}, ValueError, r'backbone.0: frozen'),
        (
            PLAIN,
            [SHORT],
            dict(
                train_cfg=dict(type='IterBasedTrainLoop', max_iters=4),
                sampler=dict(type='InfiniteSampler'),
            ),
            ValueError,
            r'RePrHook counts epochs, but training counts only iterations',
        ),
    ],
    ids=['wau', 'dsd', 'short', 'nothing', 'frozen', 'iterations'],
)
def test_runs_that_it_does_not_go_with_are_refused(tmp_path, wrapper, hooks, options, error, words):
    options = {'max_epochs': 9, **options}
    runner = small_runner(tmp_path, wrapper, hooks, model=SmallModel(), **options)
    with pytest.raises(error, match=words):
        runner.train()


def test_only_the_first_convolution_is_nothing_to_drop_from(tmp_path):
    hook = dict(SHORT, targets='stem')
    runner = small_runner(tmp_path, PLAIN, [hook], max_epochs=9, model=Branches())
    with pytest.raises(ValueError, match=r'no convolution to drop filters from.*skip_first=True'):
        runner.train()
