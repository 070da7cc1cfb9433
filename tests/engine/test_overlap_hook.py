import json

import pytest
import torch
from hooks import scalars
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from PIL import Image
from small import small_runner
from torch import nn

from mmwau import OverlapHook, WAUHook
from mmwau.overlap import expected_overlap, layer_overlap

WAU = dict(type='WAUOptimWrapper')
PLAIN = dict(type='OptimWrapper')
ARMS = pytest.mark.parametrize(
    ('wrapper', 'hook'), [(WAU, 'WAUHook'), (PLAIN, 'OverlapHook')], ids=['WAU', 'baseline']
)


def log(work_dir):
    return ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


@ARMS
def test_network_and_stages_are_measured_at_start_interval_and_end(tmp_path, wrapper, hook):
    measured = []

    class Watch(Hook):
        def before_train(self, runner):
            self.after_train_iter(runner)

        def after_train_iter(self, runner, *args, **kwargs):
            model = runner.model
            measured.append((layer_overlap(model.backbone[1]), layer_overlap(model.neck)))

    runner = small_runner(tmp_path, wrapper, [Watch(), dict(type=hook, overlap_interval=4)])
    runner.train()
    assert measured[0] != measured[4] != measured[6]
    expected = [
        {
            'overlap': pytest.approx(sum(measured[step]) / 2),
            'stage_overlap/backbone.1': pytest.approx(measured[step][0]),
            'stage_overlap/neck': pytest.approx(measured[step][1]),
            'step': step,
        }
        for step in (0, 4, 6)
    ]
    assert scalars(tmp_path, 'overlap') == expected
    lines = [line for line in log(tmp_path).splitlines() if 'Filters after' in line]
    assert [line.partition('Filters after ')[2].split()[0] for line in lines] == ['0', '4', '6']
    assert f'stage_overlap/neck: {measured[6][1]:.4f}' in lines[-1]
    start, end = (sum(measured[step]) / 2 for step in (0, 6))
    assert f'mean of 2 layers: {start:.4f} at the start, {end:.4f} at the end' in log(tmp_path)


def test_every_visualizer_backend_gets_them(tmp_path):
    backends = [
        dict(type='LocalVisBackend'),
        dict(type='LocalVisBackend', name='second', save_dir=str(tmp_path / 'second')),
    ]
    visualizer = dict(type='Visualizer', vis_backends=backends, name=tmp_path.name)
    small_runner(tmp_path, PLAIN, [dict(type='OverlapHook')], visualizer=visualizer).train()
    entries = [json.loads(line) for line in (tmp_path / 'second/scalars.json').open()]
    steps = [entry['step'] for entry in entries if 'stage_overlap/neck' in entry]
    assert steps == [0, 6]


MEASURES = dict(overlap_interval=1, movement=True)


@pytest.mark.parametrize(
    ('wrapper', 'hooks'),
    [
        (WAU, [dict(type='WAUHook', ratio_schedule=dict(type='constant', ratio=1), **MEASURES)]),
        (PLAIN, [dict(type='OverlapHook', **MEASURES), dict(type='OrthogonalityHook', kind='so')]),
    ],
    ids=['WAU', 'baseline'],
)
def test_no_log_key_is_the_folder_of_another(tmp_path, wrapper, hooks):
    """Backends of MMEngine keep values in files and nested dicts, whose folders keys name."""
    small_runner(tmp_path, wrapper, hooks).train()
    keys = {key for entry in scalars(tmp_path, 'step') for key in entry} | {'sent_mb'}
    assert {'overlap', 'stage_overlap/neck', 'path_length', 'displacement'} <= keys
    assert not [(key, folder) for folder in keys for key in keys if key.startswith(f'{folder}/')]


def test_a_curve_that_an_earlier_version_began_goes_on(tmp_path):
    hooks = [dict(type='OverlapHook', overlap_interval=3)]
    small_runner(tmp_path, PLAIN, hooks, max_epochs=1).train()
    path = tmp_path / 'epoch_1.pth'
    checkpoint = torch.load(path, weights_only=False)
    curve = checkpoint['message_hub']['runtime_info']['overlap_curve']
    expected = [dict(point) for point in curve]
    curve[:] = [
        {key.replace('stage_', ''): value for key, value in point.items()} for point in curve
    ]
    assert 'overlap/neck' in curve[0]
    torch.save(checkpoint, path)
    runner = small_runner(tmp_path, PLAIN, hooks, max_epochs=2, resume=True)
    runner.train()
    curve = runner.message_hub.get_info('overlap_curve')
    assert curve[:-1] == expected
    assert {frozenset(point) for point in curve} == {frozenset(expected[0])}


@ARMS
def test_draws_layers_and_curves_at_the_end(tmp_path, wrapper, hook):
    small_runner(tmp_path, wrapper, [dict(type=hook)]).train()
    for picture in ('overlap.png', 'overlap_curve.png'):
        with Image.open(tmp_path / picture) as image:
            assert image.format == 'PNG'
            assert min(image.size) > 200
            assert len(set(image.convert('RGB').getdata())) > 10


@ARMS
def test_a_resumed_run_goes_on_with_the_curve(tmp_path, wrapper, hook):
    hooks = [dict(type=hook, overlap_interval=2)]
    whole = small_runner(tmp_path / 'whole', wrapper, hooks, max_epochs=2)
    whole.train()
    small_runner(tmp_path / 'parts', wrapper, hooks, max_epochs=1).train()
    second = small_runner(tmp_path / 'parts', wrapper, hooks, max_epochs=2, resume=True)
    second.train()
    start = [run.message_hub.get_info('overlap_at_start') for run in (whole, second)]
    assert start[0] == start[1]
    curve = [run.message_hub.get_info('overlap_curve') for run in (whole, second)]
    assert [point['step'] for point in curve[0]] == [0, 2, 4, 6]
    # The resumed run measured where it went on too.
    assert [point['step'] for point in curve[1]] == [0, 2, 3, 4, 6]
    assert curve[1][:2] == curve[0][:2]


def test_measuring_changes_nothing_in_the_training(tmp_path):
    hooks = ([], [dict(type='OverlapHook', overlap_interval=1)])
    runners = [
        small_runner(tmp_path / str(len(each)), PLAIN, each, randomness=dict(seed=1))
        for each in hooks
    ]
    for runner in runners:
        runner.train()
    first, second = (runner.model.state_dict() for runner in runners)
    assert all(first[name].equal(second[name]) for name in first)


def test_layers_frozen_in_training_are_measured_to_the_end(tmp_path):
    class Freeze(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 1:
                runner.model.backbone.requires_grad_(False)
                runner.model.neck.requires_grad_(False)

    small_runner(tmp_path, WAU, [Freeze(), dict(type='WAUHook', overlap_interval=1)]).train()
    assert 'mean of 2 layers' in log(tmp_path)
    assert (tmp_path / 'overlap.png').is_file()


def test_resumed_with_other_targets_draws_the_layers_of_both(tmp_path):
    hooks = [dict(type='WAUHook')]
    for epochs, targets in ((1, ['backbone', 'neck']), (2, ['neck', 'head'])):
        wrapper = dict(type='WAUOptimWrapper', targets=targets)
        small_runner(tmp_path, wrapper, hooks, max_epochs=epochs, resume=True).train()
    assert 'mean of 2 layers' in log(tmp_path)
    assert 'mean of 1 layers' in log(tmp_path)


class Depthwise(BaseModel):
    def __init__(self, others):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), *others)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)

    def forward(self, inputs, target, mode='tensor'):
        output = self.depthwise(self.backbone(inputs)).mean(dim=(1, 2, 3))
        return {'loss': (output - target).square().mean()} if mode == 'loss' else output


def test_depthwise_layers_are_left_out_by_name(tmp_path):
    targets = ['backbone', 'depthwise']
    wrapper = dict(type='WAUOptimWrapper', targets=targets)
    runner = small_runner(tmp_path, wrapper, [dict(type='WAUHook')], model=Depthwise([]))
    overlap = layer_overlap(runner.model.backbone[0])
    runner.train()
    assert scalars(tmp_path, 'overlap')[0]['overlap'] == pytest.approx(overlap)
    assert 'input of its own (depthwise): depthwise' in log(tmp_path)


def test_a_network_of_depthwise_layers_trains_without_a_picture(tmp_path):
    hook = OverlapHook(targets='depthwise')
    small_runner(tmp_path, PLAIN, [hook], model=Depthwise([])).train()
    assert scalars(tmp_path, 'overlap') == []
    assert not list(tmp_path.glob('*.png'))


def test_the_line_of_random_filters_is_the_mean_of_the_layers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        'mmwau.reporting.plots.plot_overlap_curve',
        lambda points, expected, path: drawn.append(expected),
    )
    small_runner(tmp_path, PLAIN, [dict(type='OverlapHook')]).train()
    # 8 filters of 4 x 3 x 3 values and 6 of 8.
    assert drawn == [pytest.approx((expected_overlap(8, 36) + expected_overlap(6, 8)) / 2)]


def test_two_hooks_that_measure_are_refused(tmp_path):
    hooks = [dict(type='WAUHook'), dict(type='OverlapHook')]
    with pytest.raises(ValueError, match='custom_hooks has WAUHook and OverlapHook, each of which'):
        small_runner(tmp_path, WAU, hooks).train()


def test_targets_that_match_nothing_are_reported(tmp_path):
    runner = small_runner(tmp_path, PLAIN, [dict(type='OverlapHook', targets='trunk')])
    with pytest.raises(ValueError, match=r"targets=\('trunk',\).*backbone, neck, head"):
        runner.train()


@pytest.mark.parametrize('hook', [OverlapHook, WAUHook])
@pytest.mark.parametrize('interval', [0, -1, 2.5, 'often'])
def test_wrong_interval_is_reported(hook, interval):
    with pytest.raises(ValueError, match=r'overlap_interval must be an integer of at least 1'):
        hook(overlap_interval=interval)


def test_wrong_targets_are_reported():
    with pytest.raises(TypeError, match='targets must be module-name prefixes'):
        OverlapHook(targets=3)
