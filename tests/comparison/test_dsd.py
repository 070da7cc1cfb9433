import pytest
import torch
from hooks import StopAfter, assert_plain, log
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import Hook
from small import small_runner
from torch import nn

from mmwau import DSDHook
from mmwau.comparison.dsd import smallest

PLAIN = dict(type='OptimWrapper')
SHORT = dict(type='DSDHook', begin=1, end=3, sparsity=0.4)
NAMES = ('backbone.1.weight', 'neck.weight', 'head.weight')


class Watch(Hook):
    """Keeps weights and momentum before and after each step."""

    priority = 'LOWEST'

    def __init__(self):
        self.steps = []

    def look(self, runner):
        params = dict(runner.model.named_parameters())
        state = runner.optim_wrapper.optimizer.state
        return {
            name: (
                params[name].detach().clone(),
                state[params[name]]['momentum_buffer'].clone() if params[name] in state else None,
            )
            for name in NAMES
        }

    def before_train_iter(self, runner, *args, **kwargs):
        self.before = self.look(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        self.steps.append((self.before, self.look(runner)))


@pytest.fixture(scope='module', params=[1, 2], ids=['each', 'accumulation'])
def watched(request, tmp_path_factory):
    """One dense epoch (3 iterations), two sparse ones and one dense."""
    watch, work_dir = Watch(), tmp_path_factory.mktemp('dsd')
    wrapper = dict(PLAIN, accumulative_counts=request.param)
    small_runner(work_dir, wrapper, [SHORT, watch], max_epochs=4).train()
    return watch.steps, log(work_dir)


@pytest.mark.parametrize('name', NAMES)
def test_the_smallest_weights_of_every_layer_are_zero_in_the_sparse_stage(watched, name):
    steps, _ = watched
    dense = steps[2][1][name][0]
    order = dense.abs().flatten().sort(descending=True).values
    zero = dense.abs() < order[round(0.6 * dense.numel()) - 1]
    assert zero.sum() == dense.numel() - round(0.6 * dense.numel())
    for before, after in steps[3:9]:
        assert before[name][0].eq(0).equal(zero)
        assert after[name][0].eq(0).equal(zero)
    # Those that are left keep their values at first, and train.
    assert steps[3][0][name][0][~zero].equal(dense[~zero])
    assert not steps[8][1][name][0][~zero].equal(dense[~zero])


@pytest.mark.parametrize('name', NAMES)
def test_weights_come_back_from_zero_with_no_momentum(watched, name):
    steps, _ = watched
    zero = steps[8][1][name][0] == 0
    weight, momentum = steps[9][0][name]
    assert weight.equal(steps[8][1][name][0])
    assert not momentum[zero].any()
    assert momentum[~zero].equal(steps[8][1][name][1][~zero])
    assert steps[-1][1][name][0][zero].all()


def test_the_log_shows_how_many(watched):
    _, text = watched
    weights = (8 * 4 * 9, 8 * 6, 6)
    zeros = sum(count - round(0.6 * count) for count in weights)
    assert f'DSD: {zeros} of {sum(weights)} weights in 3 layers are zero until epoch 3' in text
    assert 'DSD: all weights train again' in text


@pytest.mark.parametrize('stop', [1, 2, 3])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, stop):
    whole = small_runner(tmp_path / 'whole', PLAIN, [SHORT], max_epochs=4)
    whole.train()
    parts = small_runner(tmp_path / 'parts', PLAIN, [SHORT, StopAfter(stop)], max_epochs=4)
    with pytest.raises(KeyboardInterrupt):
        parts.train()
    entry = torch.load(tmp_path / f'parts/epoch_{stop}.pth', weights_only=False)['DSDHook']
    assert entry['phase'] == (None if stop == 1 else 0)
    assert_plain(entry)
    parts = small_runner(tmp_path / 'parts', PLAIN, [SHORT], max_epochs=4, resume=True)
    parts.train()
    one, two = whole.model.state_dict(), parts.model.state_dict()
    assert all(one[name].equal(two[name]) for name in one)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_smallest_are_those_below_the_kth_largest(values, sparsity):
    weight = torch.tensor(values, dtype=torch.float32)
    kept = max(1, round(len(values) * (1 - sparsity)))
    threshold = sorted(map(abs, values), reverse=True)[kept - 1]
    assert smallest(weight, sparsity).tolist() == [abs(value) < threshold for value in values]


def test_linear_layers_are_in_and_the_first_convolution_is_out(tmp_path):
    class WithLinear(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2))
            self.extra = nn.Conv2d(4, 4, 3)
            self.extra.weight = self[1].weight

    found = {}
    for skip_first in (True, False):
        hook = DSDHook(begin=1, end=2, skip_first=skip_first)
        hook.prepare(None, WithLinear())
        found[skip_first] = list(hook._layers)
    assert found == {True: ['1', '2'], False: ['0', '1', '2']}
    with pytest.raises(ValueError, match=r"targets=\('0',\) has only the first convolution"):
        DSDHook(begin=1, end=2, targets='0').prepare(None, WithLinear())


@pytest.mark.parametrize(
    ('options', 'error', 'words'),
    [
        (dict(begin=0, end=2), ValueError, r'begin must be at least 1 \(epochs\), got 0'),
        (dict(begin=1.5, end=2), TypeError, r'begin must be an integer \(epochs\), got 1.5'),
        (dict(begin=3, end=3), ValueError, r'end must be at least 4 .*begin is 3\), got 3'),
        (dict(begin=1, end=2, sparsity=0), ValueError, r'sparsity must be in \(0, 1\)'),
        (dict(begin=1, end=2, skip_first='no'), TypeError, r"skip_first .* got 'no'"),
        (dict(begin=1, end=2, targets=[]), TypeError, r'targets must be module-name prefixes'),
    ],
)
def test_wrong_arguments_are_reported(options, error, words):
    with pytest.raises(error, match=words):
        DSDHook(**options)


@pytest.mark.parametrize(
    ('wrapper', 'hook', 'error', 'words'),
    [
        (dict(type='WAUOptimWrapper'), SHORT, TypeError, r'DSDHook and WAUOptimWrapper each'),
        (PLAIN, dict(SHORT, end=4), ValueError, r'before epoch 4, .* ends after 4 epochs'),
        (
            PLAIN,
            dict(SHORT, targets='trunk'),
            ValueError,
            r"below the prefixes in targets=\('trunk',\).*backbone, neck, head",
        ),
    ],
    ids=['wau', 'short', 'nothing'],
)
def test_runs_that_it_does_not_go_with_are_refused(tmp_path, wrapper, hook, error, words):
    with pytest.raises(error, match=words):
        small_runner(tmp_path, wrapper, [hook], max_epochs=4).train()
