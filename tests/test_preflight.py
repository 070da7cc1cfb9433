import json
import os
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmwau.preflight import check_test_config, check_train_config

CONFIGS = Path(__file__).parents[1] / 'configs'


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """The demo's WAU config, on data that exist."""
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'val'):
        (tmp_path / 'data/demo' / split).mkdir(parents=True)
        annotations = tmp_path / f'data/demo/annotations/instances_{split}.json'
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps({'images': [], 'annotations': [], 'categories': []}))
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_r18_wau_demo.py')
    cfg.work_dir = 'work_dirs/demo'
    return cfg


def test_good_config_passes(cfg):
    check_train_config(cfg)
    cfg.custom_hooks = []
    cfg.optim_wrapper.type = 'OptimWrapper'
    check_train_config(cfg)


@pytest.mark.parametrize(
    ('options', 'error', 'words'),
    [
        ({'update_ratio': 0.0}, ValueError, 'update_ratio must be in (0, 1], got 0.0'),
        ({'update_ratio': 1.5}, ValueError, 'update_ratio must be in (0, 1], got 1.5'),
        ({'update_ratio': 'half'}, TypeError, "update_ratio must be a number in (0, 1], got 'half"),
        ({'axis': 'input'}, ValueError, "axis must be one of 'out', 'in', got 'input'"),
        ({'sampler': 'normal'}, ValueError, "'bernoulli', 'cyclic', got 'normal'"),
        ({'hold': 'all'}, ValueError, "hold must be one of 'weight', 'state', 'grad', got 'all'"),
        ({'rescale': 2}, TypeError, 'rescale must be True or False, got 2'),
        ({'seed': 'x'}, TypeError, "seed must be an integer, got 'x'"),
        ({'targets': 5}, TypeError, "targets must be module-name prefixes such as ('backbone'"),
        ({'type': 'OptimWrapper'}, TypeError, "optim_wrapper.type is 'OptimWrapper': nothing"),
        ({'type': 'AmpOptimWrapper'}, TypeError, "Set optim_wrapper.type to 'WAUAmpOptimWrapper'"),
    ],
)
def test_wrong_settings_are_told(cfg, options, error, words):
    cfg.merge_from_dict({'optim_wrapper': options})
    with pytest.raises(error, match=re.escape(words)):
        check_train_config(cfg)


@pytest.mark.parametrize(
    ('hooks', 'error', 'words'),
    [
        ([dict(type='WAUHook')] * 2, ValueError, 'WAUHook is in custom_hooks more than once'),
        ([dict(type='WAUHook', overlap_interval=0)], ValueError, 'overlap_interval must be an int'),
        ([dict(type='WAUHook', interval=5)], TypeError, "unexpected keyword argument 'interval'"),
        (
            [dict(type='WAUHook', ratio_schedule=dict(type='constant', ratio=2))],
            ValueError,
            'ratio_schedule: ratio must be in (0, 1], got 2',
        ),
    ],
)
def test_wrong_hooks_are_told(cfg, hooks, error, words):
    cfg.custom_hooks = hooks
    with pytest.raises(error, match=re.escape(words)):
        check_train_config(cfg)


@pytest.mark.parametrize(
    ('part', 'kind'),
    [
        ('model_wrapper_cfg', 'MMFullyShardedDataParallel'),
        ('strategy', 'FSDPStrategy'),
        ('strategy', 'DeepSpeedStrategy'),
        ('strategy', 'ColossalAIStrategy'),
    ],
)
def test_parameters_cut_over_processes_are_refused(cfg, part, kind):
    cfg[part] = dict(type=kind)
    with pytest.raises(TypeError, match=f'WAU does not work with {kind}.*Use MMDistributed'):
        check_train_config(cfg)


def test_hook_without_any_wrapper_is_told(cfg):
    cfg.pop('optim_wrapper')
    with pytest.raises(TypeError, match=r'WAUHook is in custom_hooks, but optim_wrapper.type is'):
        check_train_config(cfg)


@pytest.mark.parametrize(
    ('path', 'setting'),
    [
        ('annotations/instances_train.json', 'train_dataloader.dataset.ann_file'),
        ('annotations/instances_val.json', 'val_dataloader.dataset.ann_file'),
        ('train', 'train_dataloader.dataset.data_prefix.img'),
    ],
)
def test_missing_data_are_told_with_what_to_do(cfg, path, setting):
    place = Path('data/demo') / path
    place.rename(place.with_suffix('.away'))
    with pytest.raises(FileNotFoundError) as error:
        check_train_config(cfg)
    assert f'{setting}: data/demo/{path} does not exist (seen from {Path.cwd()})' in str(
        error.value
    )
    assert 'draw it with: python tools/make_demo_data.py' in str(error.value)


@pytest.mark.parametrize('as_list', [False, True])
def test_missing_annotations_of_a_metric_are_told(cfg, as_list):
    cfg.val_evaluator.ann_file = 'data/bccd/annotations/val.json'
    if as_list:
        cfg.val_evaluator = [cfg.val_evaluator]
    with pytest.raises(FileNotFoundError, match=r'val_evaluator.ann_file: .*voc_to_coco.py'):
        check_train_config(cfg)


def test_data_in_wrappers_are_checked_too(cfg):
    missing = dict(type='CocoDataset', data_root='data/coco/', ann_file='annotations/none.json')
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[cfg.train_dataloader.dataset, missing]),
    )
    with pytest.raises(FileNotFoundError, match=r'data/coco/annotations/none.json.*COCO 2017'):
        check_train_config(cfg)


@pytest.mark.parametrize(
    'elsewhere',
    [
        dict(data_root='s3://bucket/coco/'),
        dict(data_root='data/none/', backend_args=dict(backend='petrel')),
        dict(data_root='data/none/', ann_file='', data_prefix='fetches/itself'),
    ],
)
def test_data_elsewhere_are_not_looked_for(cfg, elsewhere):
    cfg.train_dataloader.dataset.update(elsewhere)
    check_train_config(cfg)


def test_hooks_and_wrappers_it_does_not_know_are_left_alone(cfg):
    cfg.custom_hooks = [dict(type='SomeHook'), dict(type='other.OtherHook')]
    cfg.optim_wrapper.type = 'SomeWrapper'
    check_train_config(cfg)


@pytest.mark.parametrize('check', [check_train_config, check_test_config])
def test_missing_checkpoint_is_told_with_those_that_exist(cfg, check):
    cfg.load_from = 'epoch_9.pth'
    Path('epoch_8.pth').touch()
    with pytest.raises(FileNotFoundError, match=r'epoch_9.pth does not exist.*: epoch_8.pth'):
        check(cfg)
    Path('epoch_9.pth').touch()
    check(cfg)
    cfg.load_from = 'https://example.org/epoch_9.pth'
    check(cfg)


def test_resuming_from_a_checkpoint_that_is_gone_is_told(cfg):
    Path(cfg.work_dir).mkdir(parents=True)
    cfg.resume = True
    check_train_config(cfg)  # nothing to resume from: it starts anew, as MMEngine does
    (Path(cfg.work_dir) / 'last_checkpoint').write_text(f'{cfg.work_dir}/epoch_2.pth')
    (Path(cfg.work_dir) / 'epoch_1.pth').touch()
    with pytest.raises(FileNotFoundError, match=r'epoch_2.pth does not exist.*: epoch_1.pth'):
        check_train_config(cfg)


def test_work_dir_that_is_a_file_is_told(cfg):
    Path('work_dirs').touch()
    with pytest.raises(NotADirectoryError, match=r'work_dirs/demo: .*work_dirs is a file'):
        check_train_config(cfg)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_work_dir_that_can_not_be_written_is_told(cfg):
    Path('work_dirs').mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r'work_dirs can not be written to'):
        check_train_config(cfg)
