"""Recipes that fine-tune a pretrained backbone: pairs, what is frozen, a training that starts."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from detection import ROOT
from mmengine.config import Config
from mmengine.runner import Runner

from mmwau.datasets.shapes import CLASSES, make_shapes

FOLDER = ROOT / 'configs/finetune'
CONVERTER = ROOT / 'tools/model_converters/efficientnet_lite0.py'
BASELINES = sorted(path.stem for path in FOLDER.glob('*.py') if '_wau_' not in path.stem)
ARMS = {
    'wau': dict(update_ratio=0.5),
    'wau_authors': dict(update_ratio=0.5, axis='in', sampler='with_replacement', min_active=0),
    'wau_layers': dict(update_ratio=0.5, axis='layer', hold='state'),
}


def arm_of(baseline, arm):
    network, _, data = baseline.rpartition('_')
    return f'{network}_{arm}_{data}'


def test_every_config_is_in_a_pair():
    names = [arm_of(baseline, arm) for baseline in BASELINES for arm in ARMS]
    assert sorted(path.stem for path in FOLDER.glob('*.py')) == sorted(BASELINES + names)
    assert len(BASELINES) == 3


@pytest.mark.parametrize('baseline', BASELINES)
@pytest.mark.parametrize('arm', ARMS)
def test_pairs_differ_only_in_the_lines_of_wau(baseline, arm):
    wau = Config.fromfile(FOLDER / f'{arm_of(baseline, arm)}.py').to_dict()
    plain = Config.fromfile(FOLDER / f'{baseline}.py').to_dict()
    assert wau.pop('custom_hooks') == [dict(type='WAUHook', overlap_interval=50)]
    assert plain.pop('custom_hooks') == [dict(type='OverlapHook', overlap_interval=50)]
    assert wau['optim_wrapper'].pop('type') == 'WAUOptimWrapper'
    assert plain['optim_wrapper'].pop('type') == 'OptimWrapper'
    options = {key: wau['optim_wrapper'].pop(key) for key in ARMS[arm]}
    assert options == ARMS[arm]
    assert wau == plain


@pytest.mark.parametrize('baseline', BASELINES)
def test_images_to_choose_on_are_none_of_those_to_report_on(baseline):
    cfg = Config.fromfile(FOLDER / f'{baseline}.py')
    loaders = [cfg[f'{stage}_dataloader'].dataset for stage in ('train', 'val', 'test')]
    assert len({dataset.ann_file for dataset in loaders}) == 3
    assert len({dataset.data_root for dataset in loaders}) == 1
    for stage, dataset in zip(('val', 'test'), loaders[1:], strict=True):
        assert cfg[f'{stage}_evaluator'].ann_file == dataset.data_root + dataset.ann_file
    (classes,) = {tuple(dataset.metainfo.classes) for dataset in loaders}
    assert cfg.model.roi_head.bbox_head.num_classes == len(classes)


@pytest.mark.slow
def test_training_starts_from_the_weights_and_keeps_what_is_frozen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [str(CONVERTER), 'checkpoints/efficientnet_lite0.pth'])
    runpy.run_path(str(CONVERTER), run_name='__main__')
    make_shapes(tmp_path / 'shapes', dict(train=4), image_size=64, progress=False)
    cfg = Config.fromfile(FOLDER / 'faster_rcnn_efficientnet_lite0_wau_layers_raccoon.py')
    cfg.merge_from_dict(
        {
            'work_dir': 'run',
            'model.roi_head.bbox_head.num_classes': len(CLASSES),
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.data_root': str(tmp_path / 'shapes') + '/',
            'train_dataloader.dataset.metainfo.classes': CLASSES,
            'train_dataloader.dataset.ann_file': 'annotations/instances_train.json',
            'train_dataloader.dataset.pipeline.2.scale': (96, 96),
            'train_cfg.max_epochs': 1,
            'param_scheduler': None,
            'default_hooks.checkpoint': None,
            **dict.fromkeys(('val_dataloader', 'val_evaluator', 'val_cfg')),
            **dict.fromkeys(('test_dataloader', 'test_evaluator', 'test_cfg')),
        }
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 1
    weights = torch.load(Path('checkpoints/efficientnet_lite0.pth'), weights_only=True)
    trained = runner.model.backbone.state_dict()
    assert trained.keys() == weights['state_dict'].keys()
    moved = {
        name for name, value in weights['state_dict'].items() if not value.equal(trained[name])
    }
    frozen = ('network.conv_stem', 'network.bn1', 'network.blocks.0.')
    assert not [name for name in moved if name.startswith(frozen)]
    assert not [name for name in moved if 'running' in name]
    # Of the convolutions that train, half have moved: in the backbone, and in the neck with it.
    layers = runner.optim_wrapper.updates.layers
    assert all(name.startswith(('backbone.network.blocks', 'neck')) for name in layers)
    own = {name.removeprefix('backbone.') for name in layers if name.startswith('backbone')}
    active = {name.removesuffix('.weight') for name in moved} & own
    assert 0.3 < len(active) / len(own) < 0.7
