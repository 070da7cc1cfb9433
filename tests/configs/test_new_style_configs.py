"""Configs of MMEngine's new style: pure Python, with classes where the others have names."""

import pickle
import runpy
import sys
from pathlib import Path

import mmdet.registry
import mmpretrain.registry
import pytest
import torch
from detection import ROOT, TEST, TRAIN
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

import mmwau
from mmwau import OverlapHook, WAUHook, WAUOptimWrapper
from mmwau.datasets.shapes import make_shapes
from mmwau.engine.type_names import type_name
from mmwau.experiment.suite import digest
from mmwau.runs.arms import group_into_arms
from mmwau.runs.reader import read_run
from mmwau.runs.settings import split_settings
from mmwau.scripts.preflight import check_train_config
from mmwau.scripts.presets import use_amp

NEW = Path(mmwau.__file__).parent / 'configs'
TEXT = ROOT / 'configs'
# Text configs by the name of the new one.
TEXT_CONFIGS = {
    'faster_rcnn_r50_coco': 'faster_rcnn_r50_coco',
    'faster_rcnn_r50_wau_coco': 'faster_rcnn_r50_wau_coco',
    'faster_rcnn_r18_demo': 'faster_rcnn_r18_demo',
    'faster_rcnn_r18_wau_demo': 'faster_rcnn_r18_wau_demo',
    'resnet50_8xb32_in1k': 'imagenet/resnet50_8xb32_in1k',
    'resnet50_wau_8xb32_in1k': 'imagenet/resnet50_wau_8xb32_in1k',
}
TYPES = ('type', 'dataset_type')
# Names that MMDetection and MMCV look up by themselves.
BY_NAME = ('BN', 'RoIAlign', 'nms', 'Pretrained')
OF_WAU = ('type', 'update_ratio')


def new(name):
    return Config.fromfile(NEW / f'{name}_new_style.py')


def registries(scope):
    of_scope = vars({'mmdet': mmdet, 'mmpretrain': mmpretrain}[scope].registry).values()
    return [registry for registry in of_scope if isinstance(registry, Registry)]


def leaves(part, place=()):
    """The values of a config by place, without the marks where `mmdet::` was followed."""
    if isinstance(part, dict) or (isinstance(part, (list, tuple)) and part):
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in items:
            if key != '_scope_':
                yield from leaves(value, (*place, key))
    else:
        yield place, part


def test_every_new_style_config_has_a_text_counterpart():
    names = {path.stem for path in NEW.glob('*.py')}
    assert names == {f'{name}_new_style' for name in TEXT_CONFIGS}
    assert all((TEXT / f'{name}.py').exists() for name in TEXT_CONFIGS.values())


def test_mim_finds_each_config_by_its_name():
    names = [path.name for root in (NEW, TEXT) for path in root.rglob('*.py')]
    names = [name for name in names if 'coco' in name or 'demo' in name or 'in1k' in name]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(('name', 'text'), TEXT_CONFIGS.items())
def test_settings_are_those_of_the_text_counterpart(name, text):
    old = Config.fromfile(TEXT / f'{text}.py').to_dict()
    assert old.pop('custom_imports') == dict(imports=['mmwau'], allow_failed_imports=False)
    scope = old['default_scope']
    old, found = dict(leaves(old)), dict(leaves(new(name).to_dict()))
    types = {place for place in old if place[-1] in TYPES}
    assert {place: value for place, value in found.items() if place not in types} == {
        place: value for place, value in old.items() if place not in types
    }
    known = registries(scope)
    for place in types:
        if old[place] in BY_NAME:
            assert found[place] == old[place]
        else:
            # The class that the text config's name is looked up as.
            assert found[place].count('.') >= 1, place
            assert get_object_from_string(found[place]) in {
                registry.get(old[place]) for registry in known
            }, place


@pytest.mark.parametrize('name', [name for name in TEXT_CONFIGS if 'wau' in name])
def test_pairs_differ_only_in_the_lines_of_wau(name):
    wau, baseline = new(name), new(name.replace('_wau', ''))
    (hook,), (baseline_hook,) = wau.pop('custom_hooks'), baseline.pop('custom_hooks')
    assert (hook.pop('type'), baseline_hook.pop('type')) == (WAUHook, OverlapHook)
    assert hook == baseline_hook
    assert wau.optim_wrapper.type is WAUOptimWrapper
    assert wau.optim_wrapper.update_ratio == 0.5
    wau, baseline = wau.to_dict(), baseline.to_dict()
    for config in (wau, baseline):
        for key in OF_WAU:
            config['optim_wrapper'].pop(key, None)
    assert wau == baseline


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a small data/demo in it."""
    monkeypatch.chdir(tmp_path)
    make_shapes('data/demo', {'train': 8, 'val': 4}, image_size=64)
    return tmp_path


@pytest.fixture
def run_script(monkeypatch):
    """Runs a script as its users do, in this process."""

    def run(script, config, *arguments, **options):
        options = [f'{name.replace("__", ".")}={value}' for name, value in options.items()]
        monkeypatch.setattr(
            sys, 'argv', [str(script), str(config), *arguments, '--cfg-options', *options]
        )
        runpy.run_path(str(script), run_name='__main__')

    return run


def small(name, **options):
    """Options for two iterations; visualizers with one name would share a folder."""
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    return {
        **{f'{loader}__num_workers': 0 for loader in loaders},
        **{f'{loader}__persistent_workers': False for loader in loaders},
        'train_cfg__max_epochs': 1,
        'train_cfg__val_interval': 1,
        'default_hooks__logger__interval': 1,
        'model__test_cfg__rcnn__score_thr': 0.0,
        'visualizer__name': name,
        'experiment_name': name,
        **options,
    }


def bits(path):
    """All tensors of a checkpoint by place, and what the optimizer has beside them."""
    checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    parts = {key: checkpoint[key] for key in ('state_dict', 'optimizer', 'param_schedulers')}
    return dict(leaves(parts))


@pytest.mark.slow
def test_trains_to_the_same_bits_and_its_copy_is_of_use(place, run_script):
    text, style = 'faster_rcnn_r18_wau_demo', 'faster_rcnn_r18_wau_demo_new_style'
    run_script(TRAIN, TEXT / f'{text}.py', **small('text'))
    run_script(TRAIN, NEW / f'{style}.py', **small('new'))
    baseline = 'faster_rcnn_r18_demo_new_style'
    run_script(
        TRAIN,
        NEW / f'{baseline}.py',
        **small('baseline', val_cfg=None, val_dataloader=None, val_evaluator=None),
    )
    expected, found = (bits(f'work_dirs/{name}/epoch_1.pth') for name in (text, style))
    assert expected.keys() == found.keys()
    assert len(expected) > 200
    for key, value in expected.items():
        same = torch.equal(value, found[key]) if torch.is_tensor(value) else value == found[key]
        assert same, key
    # The copy in the work_dir is the config, in text.
    copy = Config.fromfile(f'work_dirs/{style}/{style}.py')
    assert copy.optim_wrapper.type == 'mmwau.WAUOptimWrapper'
    check_train_config(copy)
    for name, config, options in [
        ('copy', f'work_dirs/{style}/{style}.py', {}),
        # As in the new-style configs of MMDetection itself.
        ('unscoped', NEW / f'{style}.py', dict(default_scope=None)),
    ]:
        checkpoint = f'work_dirs/{style}/epoch_1.pth'
        work_dir = ['--work-dir', name, '--out', f'{name}.pkl']
        run_script(TEST, config, checkpoint, *work_dir, **small(f'test {name}', **options))
    images = [pickle.loads(Path(name).read_bytes()) for name in ('copy.pkl', 'unscoped.pkl')]
    boxes = [[image['pred_instances']['bboxes'] for image in each] for each in images]
    assert sum(map(len, boxes[0])) > 0
    assert all(map(torch.equal, *boxes))
    # MMDetection's way to write them leaves out what is known.
    assert not any('gt_instances' in image for each in images for image in each)
    # Runs differ only in WAU.
    runs = [read_run(f'work_dirs/{name}') for name in (style, baseline)]
    assert [run.wau for run in runs] == [{}, None]
    without = {key: value for key, value in runs[0].settings.items() if not key.startswith('val')}
    assert without == {
        key: value for key, value in runs[1].settings.items() if not key.startswith('val')
    }
    assert {arm.runs[0].wau is None for arm in group_into_arms(runs)} == {True, False}
    # A suite finds the run that it asked for.
    asked = new('faster_rcnn_r18_wau_demo')
    options = {name.replace('__', '.'): value for name, value in small('new').items()}
    asked.merge_from_dict(options)
    assert digest(*split_settings(asked.to_dict()), 0, 1) == digest(
        runs[0].settings, runs[0].wau, 0, 1
    )


def test_a_config_of_ones_own_inherits_from_the_package(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from mmwau.configs.faster_rcnn_r50_wau_coco_new_style import *\n'
        "optim_wrapper.update(dict(update_ratio=0.25, hold='state'))\n"
    )
    config = Config.fromfile(path)
    assert config.optim_wrapper.type is WAUOptimWrapper
    assert split_settings(config.to_dict())[1] == {'update_ratio': 0.25, 'hold': 'state'}
    classes = dict(config.to_dict(), custom_hooks=[dict(type=WAUHook, by_epoch=False)])
    classes['optim_wrapper'] = dict(config.optim_wrapper)
    assert split_settings(classes)[1] == {'update_ratio': 0.25, 'hold': 'state', 'by_epoch': False}
    config.merge_from_dict({'optim_wrapper.update_ratio': 0.75})
    copy = Config.fromstring(config.pretty_text, '.py')
    assert split_settings(copy.to_dict()) == split_settings(config.to_dict())
    assert copy.optim_wrapper.update_ratio == 0.75


def test_amp_switches_to_the_counterpart_of_a_class():
    for name, wrapper in [
        ('faster_rcnn_r50_wau_coco', 'WAUAmpOptimWrapper'),
        ('faster_rcnn_r50_coco', 'AmpOptimWrapper'),
        ('resnet50_8xb32_in1k', 'AmpOptimWrapper'),
    ]:
        config = new(name)
        copy = Config.fromstring(config.pretty_text, '.py')
        for one in (config, copy):
            use_amp(one)
            assert one.optim_wrapper.type == wrapper
            assert one.optim_wrapper.loss_scale == 'dynamic'
            again = Config.fromstring(one.pretty_text, '.py')
            assert again.optim_wrapper.type == wrapper


def test_test_time_augmentation_leaves_a_config_that_can_be_read(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from mmwau.configs.faster_rcnn_r50_wau_coco_new_style import *\n'
        'from mmdet.models.test_time_augs import DetTTAModel\n'
        'tta_model = dict(type=DetTTAModel)\n'
        'tta_pipeline = test_pipeline\n'
    )
    config = Config.fromfile(path)
    runpy.run_path(str(TEST))['use_tta'](config)
    copy = Config.fromstring(config.pretty_text, '.py')
    assert type_name(copy.model.type) == 'DetTTAModel'
    assert type_name(copy.model.module.type) == 'FasterRCNN'


def demo():
    config = new('faster_rcnn_r18_wau_demo')
    config.work_dir = 'work_dirs/demo'
    return config


def test_classes_are_checked_before_training(place):
    check_train_config(demo())
    check_train_config(Config.fromstring(f"work_dir='w'\n{demo().pretty_text}", '.py'))

    wrong = demo()
    wrong.optim_wrapper.update_ratio = 1.5
    with pytest.raises(ValueError, match=r'update_ratio must be in \(0, 1\], got 1.5'):
        check_train_config(wrong)

    wrong = new('faster_rcnn_r18_demo')
    wrong.custom_hooks = demo().custom_hooks
    for config in (wrong, Config.fromstring(wrong.pretty_text, '.py')):
        with pytest.raises(TypeError, match=r"optim_wrapper.type is 'OptimWrapper': nothing would"):
            check_train_config(config)

    Path('data/demo/annotations/instances_val.json').write_text('{"images": []}')
    with pytest.raises(ValueError, match=r'val_dataloader.dataset.ann_file: .* is not a COCO'):
        check_train_config(demo())
