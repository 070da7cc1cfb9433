import json
from pathlib import Path

import pytest
from mmengine.registry import HOOKS
from PIL import Image
from small import small_runner

from mmwau import WAUHook
from mmwau.overlap import layer_overlap


def scalars(work_dir):
    lines = next(Path(work_dir).glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_logs_active_fraction_and_overlap_with_the_training_scalars(tmp_path):
    wrapper = dict(type='WAUOptimWrapper', update_ratio=0.25)
    small_runner(tmp_path, wrapper, [dict(type='WAUHook')]).train()
    logged = scalars(tmp_path)
    # Of 8 and 6 filters 2 and round(1.5) = 2 are active.
    assert [entry['active_fraction'] for entry in logged] == [4 / 14] * 6
    assert all(0 < entry['overlap'] < 1 for entry in logged)
    assert 'active_fraction: 0.2857' in next(tmp_path.glob('*/*.log')).read_text()


def test_overlap_is_measured_at_the_start_and_then_at_its_interval(tmp_path):
    hook = dict(type='WAUHook', overlap_interval=4)
    runner = small_runner(tmp_path, dict(type='WAUOptimWrapper'), [hook])
    at_start = (layer_overlap(runner.model.backbone[1]) + layer_overlap(runner.model.neck)) / 2
    runner.train()
    at_end = (layer_overlap(runner.model.backbone[1]) + layer_overlap(runner.model.neck)) / 2
    overlap = [entry['overlap'] for entry in scalars(tmp_path)]
    assert overlap[:3] == [pytest.approx(at_start)] * 3
    assert overlap[3] != overlap[2]
    assert overlap[3:] == [overlap[3]] * 3
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'mean of 2 held layers: {at_start:.4f} at the start, {at_end:.4f} at the end' in log


def test_draws_the_overlap_of_each_layer_at_the_end(tmp_path):
    small_runner(tmp_path, dict(type='WAUOptimWrapper'), [dict(type='WAUHook')]).train()
    with Image.open(tmp_path / 'overlap.png') as picture:
        assert picture.format == 'PNG'
        assert min(picture.size) > 200
        assert len(set(picture.convert('RGB').getdata())) > 10


def test_start_of_a_resumed_run_is_the_start_of_the_first(tmp_path):
    wrapper, hooks = dict(type='WAUOptimWrapper'), [dict(type='WAUHook')]
    first = small_runner(tmp_path, wrapper, hooks, max_epochs=1)
    first.train()
    second = small_runner(tmp_path, wrapper, hooks, max_epochs=2, resume=True)
    second.train()
    start = [r.message_hub.get_info('wau_overlap_at_start') for r in (first, second)]
    assert start[0] == start[1]


def test_refuses_to_run_without_its_wrapper(tmp_path):
    runner = small_runner(tmp_path, dict(type='OptimWrapper'), [dict(type='WAUHook')])
    with pytest.raises(TypeError, match=r"type is 'OptimWrapper'.*to 'WAUOptimWrapper'.*--amp"):
        runner.train()


def test_does_not_mind_a_run_that_only_tests(tmp_path):
    hook = HOOKS.build(dict(type='WAUHook'))
    assert isinstance(hook, WAUHook)
    runner = small_runner(tmp_path, dict(type='OptimWrapper'), [hook])
    runner.call_hook('before_run')
    runner.call_hook('before_test')


@pytest.mark.parametrize('interval', [0, -1, 2.5, 'often'])
def test_wrong_interval_is_told(interval):
    with pytest.raises(ValueError, match=r'overlap_interval must be an integer of at least 1'):
        WAUHook(overlap_interval=interval)
