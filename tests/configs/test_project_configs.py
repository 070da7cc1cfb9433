"""The configs of MMSegmentation, MMRotate and MMPose, where these are installed.

That an arm is its baseline with WAU is tested in tests/scripts/test_presets.py.
"""

import json
import re
import subprocess
import sys
from argparse import Namespace

import pytest
from detection import ROOT

from mmwau.datasets.shapes import make_shapes
from mmwau.engine import package_configs
from mmwau.engine.package_configs import read_config
from mmwau.scripts.errors import is_told
from mmwau.scripts.launch import load_config
from mmwau.scripts.preflight import check_wau

CONFIGS = ROOT / 'configs'
# With what stands in the name of the arm, and the project.
PAIRS = [
    ('segmentation/fcn_r18_{}80k_cityscapes', 'mmseg'),
    ('segmentation/fcn_r18_{}shapes', 'mmseg'),
    ('rotate/rotated_retinanet_r50_{}1x_dota', 'mmrotate'),
    ('pose/td_hm_r50_{}keypoints', 'mmpose'),
]
RECIPES = [pair for pair in PAIRS if not pair[0].endswith('shapes')]
SHAPES = 'segmentation/fcn_r18_{}shapes'


def load(name, project, arm=''):
    pytest.importorskip(project, reason=f'{project} is an extra')
    return read_config(CONFIGS / f'{name.format(arm)}.py')


def recipe_of(name):
    text = (CONFIGS / f'{name.format("")}.py').read_text()
    return re.search(r"^_base_ = '(\w+::.*)'$", text, re.M)[1]


def test_every_config_is_in_a_pair():
    found = {
        str(path.relative_to(CONFIGS).with_suffix(''))
        for folder in ('segmentation', 'rotate', 'pose')
        for path in (CONFIGS / folder).glob('*.py')
    }
    assert found == {name.format(arm) for name, _ in PAIRS for arm in ('', 'wau_')}


@pytest.mark.parametrize(('name', 'project'), RECIPES)
def test_baseline_is_the_recipe_of_its_project(name, project):
    config = load(name, project).to_dict()
    recipe = read_config(recipe_of(name)).to_dict()
    assert config.pop('custom_imports')['imports'] == ['mmwau']
    *hooks, overlap = config.pop('custom_hooks')
    assert hooks == recipe.pop('custom_hooks', [])
    assert overlap == dict(type='OverlapHook')
    assert config == recipe
    assert config['default_scope'] == project


@pytest.mark.parametrize(('name', 'project'), RECIPES)
def test_the_scripts_put_wau_on_recipes_of_the_project(name, project):
    pytest.importorskip(project, reason=f'{project} is an extra')
    options = dict(wau='paper', launcher='none', cfg_options=None, work_dir=None, local_rank=0)
    cfg = load_config(Namespace(config=recipe_of(name), **options))
    check_wau(cfg)
    arm = load(name, project, 'wau_')
    for part in ('optim_wrapper', 'custom_hooks', 'model', 'train_dataloader'):
        assert cfg[part] == arm[part]


def test_a_project_that_is_not_installed_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(package_configs, 'find_spec', lambda name: None)
    (tmp_path / 'mine.py').write_text("_base_ = 'mmseg::fcn/fcn.py'\n")
    with pytest.raises(ModuleNotFoundError, match=r"mmseg is not installed.*'mmwau\[segmentation"):
        read_config(tmp_path / 'mine.py')


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('mmdet::faster_rcnn/nope.py', r'no config of an installed package: file .*nope\.py'),
        ('mmdet::nope.py', 'Such names are like mmdet::FOLDER/NAME.py'),
        ('mmfoo::x/y.py', 'does not support to load mmfoo config'),
        ('mmwau::nope.py', 'is no config of mmwau: there is no '),
    ],
)
def test_names_of_no_config_are_told(name, words, tmp_path):
    """In an error that scripts print without a traceback, which says where the name is from."""
    with pytest.raises(FileNotFoundError, match=words) as caught:
        read_config(name)
    assert str(caught.value).startswith(f'{name} is no config of ')
    assert is_told(caught.value)
    mine = tmp_path / 'mine.py'
    mine.write_text(f'_base_ = {name!r}\n')
    with pytest.raises(FileNotFoundError, match=words) as caught:
        read_config(mine)
    assert str(caught.value).startswith(f'{mine}: _base_ names {name}, which is no config of ')


def test_a_package_of_openmmlab_that_is_not_installed_is_told():
    with pytest.raises(
        ModuleNotFoundError, match=r'mmyolo::a/b\.py can not be read: mmyolo is not'
    ) as caught:
        read_config('mmyolo::a/b.py')
    assert is_told(caught.value)


def test_a_package_config_needs_its_ending():
    with pytest.raises(FileNotFoundError, match=r'ends with \.py, got mmdet::faster_rcnn/x'):
        read_config('mmdet::faster_rcnn/x')


@pytest.mark.slow
@pytest.mark.parametrize('arm', ['', 'wau_'])
def test_segmentation_trains(arm, tmp_path):
    """A very short form of the whole training: the script, the drawn data, the metric."""
    pytest.importorskip('mmseg', reason='mmseg is an extra')
    make_shapes(tmp_path / 'data' / 'demo', {'train': 8, 'val': 2}, progress=False)
    options = [
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2',
        *(f'{part}_dataloader.num_workers=0' for part in ('train', 'val')),
        *(f'{part}_dataloader.persistent_workers=False' for part in ('train', 'val')),
        'default_hooks.logger.interval=1',
        'custom_hooks.0.overlap_interval=2',
    ]
    config = CONFIGS / f'{SHAPES.format(arm)}.py'
    command = [sys.executable, ROOT / 'tools' / 'train.py', config, '--cfg-options', *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (tmp_path / 'work_dirs' / config.stem).glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert len([entry for entry in entries if 'mIoU' in entry]) == 2
    fractions = [entry['active_fraction'] for entry in entries if 'active_fraction' in entry]
    assert fractions == ([0.5] * 4 if arm else [])
