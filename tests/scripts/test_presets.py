"""WAU on any config, as ``tools/train.py --wau`` puts it there."""

import subprocess
import sys
from copy import deepcopy
from functools import cache

import pytest
from detection import ROOT, TRAIN, run_python
from mmengine.config import Config

from mmwau.datasets.shapes import make_shapes
from mmwau.engine.package_configs import package_bases, read_config
from mmwau.scripts.preflight import check_wau
from mmwau.scripts.presets import preset_names, use_amp, use_wau

CONFIGS = ROOT / 'configs'
ARMS = {
    '_wau_authors_layers': 'authors_layers',
    '_wau_authors': 'authors',
    '_wau_layers': 'layers',
    '_wau': 'paper',
}
FILES = [
    path
    for path in sorted(CONFIGS.rglob('*_wau_*.py'))
    if not {'suites', '_base_'} & set(path.relative_to(CONFIGS).parts)
]
# The folders of configs for projects that are extras.
PROJECTS = {'segmentation': 'mmseg', 'rotate': 'mmrotate', 'pose': 'mmpose'}
THREE = dict(type='WAUOptimWrapper', update_ratio=0.5)
MMDET = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'


@cache
def read(path):
    return read_config(path, import_custom_modules=False)


def test_each_preset_has_configs_and_each_config_a_preset():
    assert preset_names() == sorted(ARMS.values())
    assert len(FILES) == 124


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_a_baseline_with_a_preset_is_the_config_with_wau(path):
    if path.parent.name in PROJECTS:
        project = PROJECTS[path.parent.name]
        pytest.importorskip(project, reason=f'{project} is an extra')
    arm = next(arm for arm in ARMS if f'{arm}_' in path.name)
    cfg = deepcopy(read(path.with_name(path.name.replace(arm, '', 1))))
    use_wau(cfg, ARMS[arm])
    assert cfg.to_dict() == read(path).to_dict()


def test_the_demo_in_three_lines_is_the_config_with_the_preset():
    """The configs say once what they share, and are what the documentation shows."""
    cfg = read(CONFIGS / 'faster_rcnn_r18_wau_demo.py')
    assert 'wau' not in cfg
    assert {key: cfg.optim_wrapper[key] for key in THREE} == THREE
    assert cfg.custom_hooks == [dict(type='WAUHook', overlap_interval=50)]


@pytest.mark.parametrize('preset', ARMS.values())
def test_a_config_of_a_package_gets_wau(preset):
    cfg = read_config(MMDET)
    plain = cfg.to_dict()
    use_wau(cfg, preset)
    check_wau(cfg)
    changed = cfg.to_dict()
    assert changed.pop('custom_hooks') == [dict(type='WAUHook')]
    assert changed.pop('custom_imports') == dict(imports=['mmwau'], allow_failed_imports=False)
    wau = read(CONFIGS / '_base_' / 'wau' / f'{preset}.py').wau.to_dict()
    assert changed.pop('optim_wrapper') == {**plain.pop('optim_wrapper'), **wau}
    assert changed == plain


def test_hooks_and_imports_of_the_config_stay():
    cfg = Config(
        dict(
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            custom_hooks=[dict(type='EMAHook'), dict(type='SyncBuffersHook')],
            custom_imports=dict(imports=['json'], allow_failed_imports=True),
        )
    )
    use_wau(cfg, 'paper')
    assert [hook['type'] for hook in cfg.custom_hooks] == ['EMAHook', 'SyncBuffersHook', 'WAUHook']
    assert cfg.custom_imports == dict(imports=['json', 'mmwau'], allow_failed_imports=True)
    assert cfg.optim_wrapper == dict(optimizer=dict(type='SGD', lr=0.1), **THREE)


def test_a_config_of_new_style_gets_wau():
    folder = ROOT / 'mmwau' / 'configs'
    cfg = Config.fromfile(folder / 'faster_rcnn_r18_demo_new_style.py')
    wau = Config.fromfile(folder / 'faster_rcnn_r18_wau_demo_new_style.py')
    use_wau(cfg, 'paper')
    check_wau(cfg)
    assert cfg.optim_wrapper.type == 'WAUOptimWrapper'
    assert cfg.custom_hooks[0]['overlap_interval'] == wau.custom_hooks[0]['overlap_interval']
    assert cfg.optim_wrapper.optimizer == wau.optim_wrapper.optimizer


@pytest.mark.parametrize('amp_first', [True, False])
def test_mixed_precision_goes_with_wau(amp_first):
    cfg = deepcopy(read(CONFIGS / 'faster_rcnn_r18_demo.py'))
    for change in (use_amp, lambda cfg: use_wau(cfg, 'layers'))[:: 1 if amp_first else -1]:
        change(cfg)
    assert cfg.optim_wrapper.type == 'WAUAmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    assert cfg.optim_wrapper.axis == 'layer'


@pytest.mark.parametrize(
    ('wrapper', 'hooks', 'message'),
    [
        (THREE, [], r"--wau paper: the config has WAU already .* 'WAUOptimWrapper'"),
        ({}, [dict(type='WAUHook')], 'the config has WAU already'),
        (dict(type='ApexOptimWrapper'), [], "OptimWrapper, AmpOptimWrapper; .* 'ApexOptimWrapper'"),
    ],
)
def test_a_config_that_can_not_get_wau_is_refused(wrapper, hooks, message):
    cfg = Config(dict(optim_wrapper=wrapper, custom_hooks=hooks))
    with pytest.raises(ValueError, match=message):
        use_wau(cfg, 'paper')
    assert cfg.to_dict() == dict(optim_wrapper=wrapper, custom_hooks=hooks)


@pytest.mark.slow
def test_the_training_script_trains_a_baseline_with_wau(tmp_path):
    make_shapes(tmp_path / 'data' / 'demo', {'train': 8, 'val': 1}, image_size=64)
    shrink = [
        'train_cfg.max_epochs=1',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_cfg=None',
        'val_dataloader=None',
        'val_evaluator=None',
        'default_hooks.logger.interval=1',
    ]
    baseline = CONFIGS / 'faster_rcnn_r18_demo.py'
    command = [TRAIN, baseline, '--wau', 'layers', '--cfg-options', *shrink]
    told = run_python(*command, 'optim_wrapper.hold=weight', cwd=tmp_path)
    assert told.returncode == 0, told.stdout
    place = tmp_path / 'work_dirs' / 'faster_rcnn_r18_demo_wau_layers'
    trained = Config.fromfile(place / 'faster_rcnn_r18_demo.py')
    assert (trained.optim_wrapper.axis, trained.optim_wrapper.hold) == ('layer', 'weight')
    again = ['train_cfg.max_epochs=2', 'optim_wrapper.hold=weight']
    told = run_python(*command, *again, '--resume', cwd=tmp_path)
    assert told.returncode == 0, told.stdout
    assert (place / 'epoch_2.pth').exists()


def test_reading_a_config_leaves_mmengine_as_it_is(tmp_path):
    code = (
        'from mmengine.config import Config\n'
        'before = Config.__dict__["_get_cfg_path"]\n'
        'import mmwau\n'
        'assert Config.__dict__["_get_cfg_path"] is before\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=tmp_path)
    (tmp_path / 'mine.py').write_text("_base_ = 'mmwau::faster_rcnn_r18_wau_demo.py'\n")
    before = Config.__dict__['_get_cfg_path']
    assert read_config(tmp_path / 'mine.py').optim_wrapper.type == 'WAUOptimWrapper'
    assert read_config('mmwau::faster_rcnn_r18_wau_demo.py').optim_wrapper.update_ratio == 0.5
    assert Config.__dict__['_get_cfg_path'] is before
    with pytest.raises(RuntimeError), package_bases():
        raise RuntimeError
    assert Config.__dict__['_get_cfg_path'] is before
