import json
import math

import pytest
import torch
from hooks import StopAfter
from hypothesis import given
from hypothesis import strategies as st
from mmengine.hooks import Hook
from small import small_runner
from torch import nn

from mmwau import OverlapHook, WAUHook
from mmwau.movement import Movement, angles, filter_directions

PLAIN = dict(type='OptimWrapper')
MEASURE = dict(type='OverlapHook', movement=True)


def angle(first, second):
    """The angle between two filters, from the cosine in double precision."""
    first, second = (one.detach().double().flatten() for one in (first, second))
    cosine = float(first @ second / (first.norm() * second.norm()))
    return math.acos(max(-1.0, min(1.0, cosine)))


def mean_angle(before, after):
    """Mean over filters, then over layers."""
    layers = [
        sum(angle(*pair) for pair in zip(before[name], after[name], strict=True)) / len(after[name])
        for name in after
    ]
    return sum(layers) / len(layers)


def test_angles_by_hand():
    start = filter_directions(torch.tensor([[2.0, 0], [0, 3], [1, 1], [1, 0]])[:, :, None])
    end = filter_directions(torch.tensor([[0.0, 5], [0, 1], [-1, -1], [1, 1e-6]])[:, :, None])
    found = angles(start, end)
    assert found.tolist() == pytest.approx([math.pi / 2, 0, math.pi, 1e-6], rel=1e-4)
    assert found[1] == 0


@pytest.mark.parametrize('scale', [1e-30, 1e-13, 1e20, 1e37])
def test_angles_do_not_mind_the_scale_of_filters(scale):
    first, second = torch.randn(2, 4, 3, 3, 3)
    expected = angles(filter_directions(first), filter_directions(second))
    found = angles(filter_directions(first * scale), filter_directions(second / scale))
    torch.testing.assert_close(found, expected)


@given(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(1, 3), st.integers(0, 9))
def test_angles_are_those_of_the_filters(filters, inputs, transposed, groups, seed):
    torch.manual_seed(seed)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    first, second = (kind(inputs * groups, filters * groups, 2, groups=groups) for _ in range(2))
    where = (int(transposed), groups)
    found = angles(*(filter_directions(conv.weight, *where) for conv in (first, second)))
    if transposed:  # (inputs, filters of a group, ...), a group after the other on the inputs
        split = [conv.weight.chunk(groups) for conv in (first, second)]
        each = [[part[:, f] for part in parts for f in range(filters)] for parts in split]
    else:
        each = [list(conv.weight) for conv in (first, second)]
    expected = [angle(*pair) for pair in zip(*each, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


def test_a_filter_that_is_held_does_not_move_at_all():
    conv = nn.Conv2d(3, 4, 3)
    movement = Movement({'conv': conv})
    conv.weight.data[:3] *= 2.0  # longer, but in the same direction
    assert movement.measure() == (0.0, 0.0)
    conv.weight.data[3] *= -1
    path_length, displacement = movement.measure()
    assert path_length == displacement == pytest.approx(math.pi / 4)
    conv.weight.data[3] *= -1
    assert movement.measure() == (pytest.approx(math.pi / 2), 0.0)


class KeepWeights(Hook):
    """Keeps the weights of the measured layers before training and after each iteration."""

    def before_train(self, runner):
        self.weights = []
        self.after_train_iter(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        layers = {'backbone.1': runner.model.backbone[1], 'neck': runner.model.neck}
        weights = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        self.weights.append(weights)


def logged(work_dir):
    lines = [
        json.loads(line)
        for path in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in path.open()
    ]
    return [(line['path_length'], line['displacement']) for line in lines if 'path_length' in line]


@pytest.mark.parametrize(
    ('wrapper', 'hook'), [('OptimWrapper', 'OverlapHook'), ('WAUOptimWrapper', 'WAUHook')]
)
def test_hooks_log_path_length_and_displacement(tmp_path, wrapper, hook):
    kept = KeepWeights()
    hooks = [kept, dict(type=hook, movement=True)]
    small_runner(tmp_path, dict(type=wrapper), hooks).train()
    steps = list(zip(kept.weights, kept.weights[1:], strict=False))
    lengths = [mean_angle(*step) for step in steps]
    expected = [
        (sum(lengths[: number + 1]), mean_angle(kept.weights[0], kept.weights[number + 1]))
        for number in range(6)
    ]
    assert min(lengths) > 0
    for found, reference in zip(logged(tmp_path), expected, strict=True):
        assert found == pytest.approx(reference, rel=1e-3)


@pytest.mark.parametrize('by_setting', [True, False], ids=['setting', 'method'])
def test_a_resumed_run_goes_on_with_it(tmp_path, by_setting):
    options = dict(randomness=dict(seed=3))
    small_runner(tmp_path / 'whole', PLAIN, [MEASURE], max_epochs=2, **options).train()
    for epochs in (1, 2):
        runner = small_runner(
            tmp_path / 'parts', PLAIN, [MEASURE], max_epochs=epochs, resume=by_setting, **options
        )
        if epochs == 2 and not by_setting:
            runner.resume(str(tmp_path / 'parts/epoch_1.pth'))
        runner.train()
    whole, parts = logged(tmp_path / 'whole'), logged(tmp_path / 'parts')
    assert len(whole) == len(parts) == 6
    assert [value for pair in parts for value in pair] == pytest.approx(
        [value for pair in whole for value in pair]
    )


def test_a_run_that_an_earlier_version_began_goes_on_with_it(tmp_path):
    options = dict(randomness=dict(seed=3))
    small_runner(tmp_path / 'whole', PLAIN, [MEASURE], max_epochs=2, **options).train()
    small_runner(tmp_path / 'parts', PLAIN, [MEASURE], max_epochs=1, **options).train()
    path = tmp_path / 'parts' / 'epoch_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    # As mmwau 0.1 wrote it.
    for kept in checkpoint['message_hub'].values():
        if 'train/path_length' in kept:
            kept['train/movement'] = kept.pop('train/path_length')
    assert 'train/movement' in checkpoint['message_hub']['log_scalars']
    assert set(checkpoint['movement']) == {'start', 'way', 'last'}
    torch.save(checkpoint, path)
    runner = small_runner(
        tmp_path / 'parts', PLAIN, [MEASURE], max_epochs=2, resume=True, **options
    )
    runner.train()
    for found, expected in zip(logged(tmp_path / 'parts'), logged(tmp_path / 'whole'), strict=True):
        assert found == pytest.approx(expected)
    logs = sorted((tmp_path / 'parts').glob('*/vis_data/scalars.json'))
    assert '"path_length"' in logs[-1].read_text()
    assert '"movement"' not in logs[-1].read_text()
    history, _ = runner.message_hub.log_scalars['train/path_length'].data
    assert len(history) == 6


def interrupt(runner):
    with pytest.raises(KeyboardInterrupt):
        runner.train()


@pytest.mark.parametrize(
    'hook',
    [
        dict(type='RePrHook', full_epochs=1, sub_epochs=2, cycles=1, drop_ratio=0.5),
        dict(type='DSDHook', begin=1, end=3, sparsity=0.9),
    ],
    ids=['repr', 'dsd'],
)
@pytest.mark.parametrize('stop', [2, 3], ids=['inside of', 'at the end of'])
def test_a_run_resumed_while_filters_are_zero_goes_on_with_it(tmp_path, hook, stop):
    hooks = [hook, MEASURE]
    whole = small_runner(tmp_path / 'whole', PLAIN, hooks, max_epochs=4)
    whole.train()
    parts = small_runner(tmp_path / 'parts', PLAIN, [*hooks, StopAfter(stop)], max_epochs=4)
    interrupt(parts)
    assert not parts.model.neck.weight.flatten(1).any(dim=1).all()
    small_runner(tmp_path / 'parts', PLAIN, hooks, max_epochs=4, resume=True).train()
    assert len(logged(tmp_path / 'parts')) == 12
    # The path length is kept in float64 in a checkpoint.
    for found, expected in zip(logged(tmp_path / 'parts'), logged(tmp_path / 'whole'), strict=True):
        assert found == pytest.approx(expected, rel=1e-6)


def test_an_interrupted_run_that_goes_on_keeps_its_start(tmp_path):
    runner = small_runner(tmp_path, PLAIN, [MEASURE, StopAfter(1)], max_epochs=2)
    layers = {'neck': runner.model.neck, 'backbone.1': runner.model.backbone[1]}
    start = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    interrupt(runner)
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, StopAfter)]
    runner.train()
    path_lengths, displacements = zip(*logged(tmp_path), strict=True)
    end = {name: layer.weight for name, layer in layers.items()}
    assert displacements[-1] == pytest.approx(mean_angle(start, end), rel=1e-3)
    assert list(path_lengths) == sorted(path_lengths)


def test_a_hook_that_is_used_again_starts_anew(tmp_path):
    hook = OverlapHook(movement=True)
    for name in ('first', 'second'):
        small_runner(tmp_path / name, PLAIN, [hook], max_epochs=1).train()
    assert logged(tmp_path / 'first') == logged(tmp_path / 'second')


def test_loaded_weights_are_a_new_start(tmp_path):
    small_runner(tmp_path / 'first', PLAIN, [MEASURE], max_epochs=1).train()
    start = str(tmp_path / 'first' / 'epoch_1.pth')
    small_runner(tmp_path / 'second', PLAIN, [MEASURE], max_epochs=1, load_from=start).train()
    path_length, displacement = logged(tmp_path / 'second')[0]
    assert path_length == pytest.approx(displacement)


def test_it_is_not_measured_unless_asked_for(tmp_path):
    small_runner(tmp_path, PLAIN, [dict(type='OverlapHook')], max_epochs=1).train()
    assert logged(tmp_path) == []
    assert 'movement' not in torch.load(tmp_path / 'epoch_1.pth', weights_only=False)


def test_measuring_changes_nothing_in_the_training(tmp_path):
    runners = [
        small_runner(tmp_path / str(len(hooks)), PLAIN, hooks, randomness=dict(seed=1))
        for hooks in ([], [MEASURE])
    ]
    for runner in runners:
        runner.train()
    first, second = (runner.model.state_dict() for runner in runners)
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize('hook', [OverlapHook, WAUHook])
def test_wrong_movement_is_refused(hook):
    with pytest.raises(TypeError, match='movement must be True or False, got 5'):
        hook(movement=5)
