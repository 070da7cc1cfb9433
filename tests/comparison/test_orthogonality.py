import math

import pytest
import torch
from hooks import StopAfter, scalars
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from small import SmallModel, small_runner
from torch import nn

from mmwau import OrthogonalityHook
from mmwau.comparison.orthogonality import penalty
from mmwau.core.random_numbers import random_numbers

PLAIN = dict(type='OptimWrapper')
ALWAYS = dict(type='OrthogonalityHook', kind='so', coefficients=[0.1], milestones=[])


def gram_minus_one(columns):
    """The smaller of W^T W - I and W W^T - I, element by element."""
    values, filters = columns.shape
    if filters > values:
        columns = columns.T
    rows = [columns[:, place].tolist() for place in range(columns.shape[1])]
    return [
        [sum(a * b for a, b in zip(one, two, strict=True)) - (i == j) for j, two in enumerate(rows)]
        for i, one in enumerate(rows)
    ]


def times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def length(vector):
    return math.sqrt(sum(value**2 for value in vector))


def slow_penalty(matrices, kind, time, name):
    """Both penalties of one layer as they are written."""
    total = 0.0
    size = len(matrices[0])
    starts = random_numbers([time], [name], [len(matrices) * size]).tolist()
    for place, matrix in enumerate(matrices):
        if kind == 'so':
            total += sum(value**2 for row in matrix for value in row)
        else:
            u = times(matrix, starts[place * size : (place + 1) * size])
            total += length(times(matrix, u)) / length(u)
    return total


@pytest.mark.parametrize('kind', ['so', 'srip'])
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 2), st.integers(0, 99))
def test_penalties_are_those_of_the_paper(kind, filters, inputs, groups, seed):
    torch.manual_seed(seed)
    conv = nn.Conv2d(inputs * groups, filters * groups, 2, groups=groups)
    matrices = [
        gram_minus_one(part.flatten(1).T.double().detach()) for part in conv.weight.split(filters)
    ]
    expected = slow_penalty(matrices, kind, 'time', 'conv')
    assert penalty({'conv': conv}, kind, 'time').item() == pytest.approx(expected, 1e-4, 1e-5)


@pytest.mark.parametrize('scale', [1e-13, 1e4, 1e8, 1e15])
def test_the_largest_singular_value_is_estimated_wherever_it_is_in_range(scale):
    conv = nn.Conv2d(3, 4, 2, bias=False)
    conv.weight.data *= scale
    columns = conv.weight.flatten(1).T.double().detach()
    expected = slow_penalty([gram_minus_one(columns)], 'srip', 'time', 'conv')
    value = penalty({'conv': conv}, 'srip', 'time')
    assert value.item() == pytest.approx(expected, 1e-4)
    value.backward()
    assert conv.weight.grad.isfinite().all()


def test_layers_of_all_kinds_are_added_up():
    layers = {'one': nn.ConvTranspose2d(3, 2, 2), 'two': nn.Linear(3, 5)}
    columns = {
        'one': layers['one'].weight.transpose(0, 1).flatten(1).T,
        'two': layers['two'].weight.T,
    }
    for kind in ('so', 'srip'):
        expected = sum(
            slow_penalty([gram_minus_one(matrix.double().detach())], kind, 'now', name)
            for name, matrix in columns.items()
        )
        assert penalty(layers, kind, 'now').item() == pytest.approx(expected, 1e-4, 1e-5)


@pytest.mark.parametrize('filters', [3, 40])
def test_the_gradient_of_so_is_that_of_the_paper_whichever_side_is_smaller(filters):
    conv = nn.Conv2d(2, filters, 3)
    penalty({'conv': conv}, 'so', '').backward()
    columns = conv.weight.detach().flatten(1).T
    expected = 4 * columns @ (columns.T @ columns - torch.eye(filters))
    torch.testing.assert_close(conv.weight.grad.flatten(1).T, expected)


@pytest.mark.parametrize('kind', ['so', 'srip'])
def test_orthonormal_filters_have_no_penalty_and_a_gradient_of_zero(kind):
    conv = nn.Conv2d(1, 4, 2, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(4).view(4, 1, 2, 2))
    value = penalty({'conv': conv}, kind, '')
    value.backward()
    assert value == 0
    assert not conv.weight.grad.any()


class Grads(Hook):
    """Keeps the gradients of the first update."""

    def before_train(self, runner):
        self.grads = None
        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(lambda *args: self.keep(runner))

    def keep(self, runner):
        if self.grads is None:
            self.grads = {
                name: param.grad.clone()
                for name, param in runner.model.named_parameters()
                if param.grad is not None
            }


def grads(work_dir, hooks, **wrapper):
    watch = Grads()
    small_runner(work_dir, dict(PLAIN, **wrapper), [*hooks, watch], max_epochs=1).train()
    return watch.grads


@pytest.mark.parametrize('counts', [1, 3], ids=['each', 'accumulation'])
def test_the_gradient_of_an_update_has_that_of_the_penalty_once(tmp_path, counts):
    wrapper = dict(accumulative_counts=counts)
    plain = grads(tmp_path / 'plain', [], **wrapper)
    with_penalty = grads(tmp_path / 'so', [ALWAYS], **wrapper)
    torch.manual_seed(0)  # as small_runner starts its model
    model = SmallModel()
    layers = {name: model.get_submodule(name) for name in ('backbone.1', 'neck', 'head')}
    (0.1 * penalty(layers, 'so', '')).backward()
    for name, param in model.named_parameters():
        if param.requires_grad:
            expected = plain[name] + (0 if param.grad is None else param.grad)
            torch.testing.assert_close(with_penalty[name], expected)


@pytest.mark.parametrize('kind', ['so', 'srip'])
def test_it_is_logged_and_follows_the_milestones(tmp_path, kind):
    class Evaluate(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            runner.model.eval()
            assert runner.model(**data_batch, mode='loss').keys() == {'loss'}
            runner.model.train()

    hook = dict(ALWAYS, kind=kind, coefficients=[0.1, 0.01, 0], milestones=[1, 2])
    optimizer = dict(optimizer=dict(type='SGD', lr=0.0))
    small_runner(tmp_path, dict(PLAIN, **optimizer), [hook, Evaluate()], max_epochs=3).train()
    logged = [entry['loss_orthogonality'] for entry in scalars(tmp_path, 'loss_orthogonality')]
    # Logged as mean over a window of up to 10 iterations, as losses are.
    values = [mean * (place + 1) for place, mean in enumerate(logged)]
    values = [now - before for before, now in zip([0, *values], values, strict=False)]
    torch.manual_seed(0)
    model = SmallModel()
    layers = {name: model.get_submodule(name) for name in ('backbone.1', 'neck', 'head')}
    expected = [
        coefficient * penalty(layers, kind, f'3/{3 * epoch + place}').item()
        for epoch, coefficient in enumerate((0.1, 0.01, 0))
        for place in range(3)
    ]
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', ['so', 'srip'])
def test_a_resumed_run_ends_with_the_same_bits_and_filters_are_nearer_to_orthonormal(
    tmp_path, kind
):
    hooks = [dict(ALWAYS, kind=kind)]
    whole = small_runner(tmp_path / 'whole', PLAIN, hooks, max_epochs=3)
    before = penalty({'': whole.model.neck}, 'so', '').item()
    whole.train()
    assert penalty({'': whole.model.neck}, 'so', '').item() < before
    parts = small_runner(tmp_path / 'parts', PLAIN, [*hooks, StopAfter(1)], max_epochs=3)
    with pytest.raises(KeyboardInterrupt):
        parts.train()
    parts = small_runner(tmp_path / 'parts', PLAIN, hooks, max_epochs=3, resume=True)
    parts.train()
    one, two = whole.model.state_dict(), parts.model.state_dict()
    assert all(one[name].equal(two[name]) for name in one)
    assert not parts.model._forward_hooks


@pytest.mark.parametrize('hold', ['weight', 'state'])
def test_it_goes_with_wau_which_still_holds(tmp_path, hold):
    class Count(Hook):
        def before_train_iter(self, runner, *args, **kwargs):
            self.before = runner.model.neck.weight.detach().clone()

        def after_train_iter(self, runner, *args, **kwargs):
            moved = runner.model.neck.weight.ne(self.before).flatten(1).any(dim=1)
            assert moved.sum() == 3

    wrapper = dict(type='WAUOptimWrapper', hold=hold)
    small_runner(tmp_path, wrapper, [ALWAYS, Count()], max_epochs=1).train()


@pytest.mark.parametrize(
    ('options', 'error', 'words'),
    [
        (dict(kind='hard'), ValueError, r"kind must be one of 'so', 'srip', got 'hard'"),
        (dict(coefficients=0.1), TypeError, r'coefficients must be a list of numbers, got 0.1'),
        (dict(coefficients=[-1], milestones=[]), ValueError, r'at least 0, got \[-1\]'),
        (dict(coefficients=[1, 1]), ValueError, r'4 milestones need 5 coefficients, got 2'),
        (dict(coefficients=[1, 1, 1], milestones=[5, 3]), ValueError, r'that increase, got \[5'),
        (dict(coefficients=[1, 1], milestones=[0.5]), TypeError, r'milestones must be a list'),
        (dict(targets=3), TypeError, r'targets must be module-name prefixes'),
    ],
)
def test_wrong_arguments_are_reported(options, error, words):
    with pytest.raises(error, match=words):
        OrthogonalityHook(**{'kind': 'so', **options})


class NoDict(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, inputs, target, mode='tensor'):
        return self.conv(inputs).mean()

    def train_step(self, data, optim_wrapper):
        optim_wrapper.update_params(self(**data))
        return {}


@pytest.mark.parametrize(
    ('hooks', 'options', 'error', 'words'),
    [
        ([ALWAYS, ALWAYS], {}, ValueError, r'two OrthogonalityHooks'),
        ([dict(ALWAYS, targets='trunk')], {}, ValueError, r"targets=\('trunk',\).*backbone, neck"),
        ([ALWAYS], dict(model=NoDict()), TypeError, r'dict of losses .* NoDict returned none'),
        (
            [dict(type='OrthogonalityHook', kind='so')],
            dict(
                train_cfg=dict(type='IterBasedTrainLoop', max_iters=4),
                sampler=dict(type='InfiniteSampler'),
            ),
            ValueError,
            r'milestones count epochs, .* Set milestones=\[\]',
        ),
    ],
    ids=['two', 'nothing', 'no losses', 'iterations'],
)
def test_runs_that_it_does_not_go_with_are_refused(tmp_path, hooks, options, error, words):
    runner = small_runner(tmp_path, PLAIN, hooks, max_epochs=1, **options)
    with pytest.raises(error, match=words):
        runner.train()
