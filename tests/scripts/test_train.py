import argparse
import os
import pickle
import re
import runpy
from pathlib import Path
from unittest.mock import patch

import mmdet
import mmpretrain.registry
import pytest
import torch
from detection import ROOT, SHRINK, TEST, TRAIN, free_port, make_coco, run, run_python
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.engine import VisualizationHook
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from safetensors.torch import save_file
from tiny_classifier import CONFIG as TINY
from tiny_classifier import TinyClassifier

from mmwau import WAU
from mmwau.datasets.shapes import make_shapes

CONFIG = ROOT / 'configs' / 'faster_rcnn_r50_wau_coco.py'
CHECKPOINT = 'work_dirs/faster_rcnn_r50_wau_coco/epoch_1.pth'
DEMO = ROOT / 'configs' / 'faster_rcnn_r18_wau_demo.py'
# A detector of four updates finds nothing it is sure of; the evaluation should see boxes still.
SHRUNK = (
    *SHRINK,
    'model.test_cfg.rcnn.score_thr=0.0',
    # Few regions: most of the time is theirs.
    'model.train_cfg.rpn_proposal.max_per_img=50',
    'model.train_cfg.rcnn.sampler.num=16',
    'model.test_cfg.rpn.max_per_img=50',
)
THREE_LINES = """
custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)
optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)
custom_hooks = [dict(type='WAUHook')]
"""


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with data/coco in it, to run the scripts from."""
    place = tmp_path_factory.mktemp('place')
    make_coco(place / 'data' / 'coco')
    return place


@pytest.fixture(scope='module')
def trained(place):
    """What training of the COCO config printed."""
    return run_python(TRAIN, CONFIG, '--cfg-options', *SHRUNK, cwd=place)


@pytest.fixture(scope='module')
def tested(place, trained):
    """What testing of that training's checkpoint printed."""
    keep = ['--out', 'one.pkl', '--show-dir', 'shown', '--cfg-options', *SHRUNK]
    show = 'default_hooks.visualization.interval=1'
    return run_python(TEST, CONFIG, CHECKPOINT, *keep, show, cwd=place)


def predictions(path):
    return pickle.loads(path.read_bytes())


@pytest.mark.slow
class TestCocoConfig:
    def test_trains_logs_and_evaluates(self, place, trained):
        assert trained.returncode == 0, trained.stdout
        # 53 convolutions in ResNet-50 and 8 in FPN; the stem and the first stage are frozen.
        assert re.search(r'WAU holds slices of 50 convolutions .* with \d+ filters', trained.stdout)
        assert 'WAU leaves out 11 convolutions (frozen): backbone.conv1, ' in trained.stdout
        assert trained.stdout.count('active_fraction: 0.5000') == 4
        assert 'Average Precision  (AP) @[ IoU=0.50:0.95' in trained.stdout
        assert 'coco/bbox_mAP_50' in trained.stdout
        assert (place / 'work_dirs/faster_rcnn_r50_wau_coco/overlap.png').is_file()

    def test_checkpoint_needs_no_mmwau_to_load_its_weights(self, place, trained):
        weights = torch.load(place / CHECKPOINT, weights_only=False)['state_dict']
        recipe = Config.fromfile(ROOT / 'configs' / 'faster_rcnn_r50_coco.py')
        recipe.model.backbone.init_cfg = None
        model = mmdet.registry.MODELS.build(recipe.model)
        model.load_state_dict(weights, strict=True)

    def test_test_script_evaluates_shows_and_keeps_predictions(self, place, tested):
        assert tested.returncode == 0, tested.stdout
        assert 'coco/bbox_mAP' in tested.stdout
        assert [result['img_id'] for result in predictions(place / 'one.pkl')] == [0, 1, 2, 3]
        assert len(list((place / 'work_dirs').glob('*/*/shown/*.jpg'))) == 4

    def test_two_processes_predict_from_safetensors_as_one_from_the_checkpoint(self, place, tested):
        weights = torch.load(place / CHECKPOINT, weights_only=False)['state_dict']
        save_file(weights, place / 'w.safetensors')
        script = ROOT / 'tools/dist_test.sh'
        command = ['bash', script, CONFIG, 'w.safetensors', 2, '--out', 'two.pkl']
        done = run([*command, '--cfg-options', *SHRUNK], place, PORT=free_port())
        assert done.returncode == 0, done.stdout
        assert 'coco/bbox_mAP' in done.stdout
        alone, together = predictions(place / 'one.pkl'), predictions(place / 'two.pkl')
        assert [result['img_id'] for result in together] == [0, 1, 2, 3]
        for one, two in zip(alone, together, strict=True):
            assert len(one['pred_instances']['scores']) > 0
            for key, value in one['pred_instances'].items():
                assert torch.equal(value, two['pred_instances'][key])

    def test_resumes_from_the_last_checkpoint(self, place, trained):
        done = run_python(
            TRAIN, CONFIG, '--resume', '--cfg-options', *SHRUNK, 'train_cfg.max_epochs=2', cwd=place
        )
        assert done.returncode == 0, done.stdout
        assert 'resumed epoch: 1, iter: 4' in done.stdout
        assert 'Epoch(train) [2][4/4]' in done.stdout

    def test_trains_in_two_processes_which_stay_equal(self, place):
        config = place / 'two_processes.py'
        config.write_text(
            f'_base_ = {str(CONFIG)!r}\n'
            "custom_imports = dict(imports=['mmwau', 'rank_hook'], allow_failed_imports=False)\n"
            "custom_hooks = [dict(type='WAUHook'), dict(type='KeepRank')]\n"
        )
        command = ['bash', ROOT / 'tools/dist_train.sh', config, 2, '--cfg-options', *SHRUNK]
        done = run(command, place, PORT=free_port(), PYTHONPATH=str(ROOT / 'tests' / 'helpers'))
        assert done.returncode == 0, done.stdout
        first, second = (
            torch.load(place / f'work_dirs/two_processes/rank{rank}.pth') for rank in (0, 1)
        )
        assert first['world_size'] == second['world_size'] == 2
        assert first['seed'] == second['seed']
        for name, value in first['model'].items():
            assert torch.equal(value, second['model'][name]), name
        states = first['optimizer']['state'], second['optimizer']['state']
        assert states[0].keys() == states[1].keys()
        for index, state in states[0].items():
            assert torch.equal(state['momentum_buffer'], states[1][index]['momentum_buffer'])
        assert 'Epoch(train) [1][2/2]' in done.stdout
        assert 'coco/bbox_mAP_50' in done.stdout


def test_slurm_script_asks_for_the_processes_and_passes_options_on(tmp_path):
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    script = ROOT / 'tools' / 'slurm_train.sh'
    arguments = ['gpus', 'job', CONFIG, 'a place', '--resume']
    path = f'{tmp_path}:{os.environ["PATH"]}'
    done = run(['bash', script, *arguments], tmp_path, PATH=path, GPUS='4', SRUN_ARGS='-A b -w c')
    assert done.returncode == 0
    said = done.stdout.splitlines()
    assert {'--partition=gpus', '--ntasks=4', '--gres=gpu:4', '-A', 'b', '-w', 'c'} <= set(said)
    expected = [str(TRAIN), str(CONFIG), '--work-dir=a place', '--launcher', 'slurm', '--resume']
    assert said[-6:] == expected


@pytest.mark.parametrize('kind', ['VisualizationHook', VisualizationHook], ids=['name', 'class'])
def test_test_script_has_predictions_of_a_classifier_drawn(tmp_path, kind):
    hook = dict(type=kind, enable=False)
    cfg = Config(dict(default_scope='mmpretrain', default_hooks=dict(visualization=hook)))
    args = argparse.Namespace(show=False, show_dir=str(tmp_path), wait_time=2)
    runpy.run_path(str(TEST))['show_predictions'](cfg, args)
    UniversalVisualizer.get_instance('classifier').dataset_meta = dict(classes=('ant', 'bee'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        hook = mmpretrain.registry.HOOKS.build(cfg.default_hooks.visualization)
    samples = [DataSample().set_pred_score(torch.tensor([0.2, 0.8])) for _ in range(2)]
    batch = dict(inputs=[torch.zeros(3, 64, 64, dtype=torch.uint8) for _ in samples])
    hook.after_test_iter(None, 0, batch, samples)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['0_0.png', '1_0.png']


@pytest.mark.parametrize(
    ('project', 'kind', 'place'),
    [
        ('mmdet', 'DetVisualizationHook', lambda hook, _: hook.test_out_dir),
        ('mmseg', 'SegVisualizationHook', lambda _, cfg: cfg.visualizer.save_dir),
        ('mmpose', 'PoseVisualizationHook', lambda hook, _: hook.out_dir),
    ],
    ids=['mmdet', 'mmseg', 'mmpose'],
)
def test_test_script_has_predictions_drawn_by_the_hook_of_each_project(project, kind, place):
    hooks = pytest.importorskip(f'{project}.engine.hooks')
    hook = dict(type=kind)
    cfg = Config(dict(default_hooks=dict(visualization=hook), visualizer=dict(save_dir=None)))
    args = argparse.Namespace(show=False, show_dir='shown', wait_time=2)
    runpy.run_path(str(TEST))['show_predictions'](cfg, args)
    settings = dict(cfg.default_hooks.visualization)
    settings.pop('type')
    visualizer = 'mmengine.visualization.Visualizer.get_current_instance'
    with patch(visualizer):
        hook = getattr(hooks, kind)(**settings)
    assert place(hook, cfg) == 'shown'
    assert getattr(hook, 'draw', getattr(hook, 'enable', None)) is True
    assert (cfg.visualizer.save_dir is None) == (project != 'mmseg')


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_launch_scripts_show_how_they_are_used(tmp_path, script):
    done = run(['bash', ROOT / 'tools' / script, CONFIG], tmp_path)
    assert done.returncode == 2
    assert f'bash tools/{script} ' in done.stdout


@pytest.mark.slow
def test_three_lines_give_wau_to_a_stock_config_in_the_stock_script(place):
    config = place / 'retinanet.py'
    config.write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n" + THREE_LINES)
    stock_script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    done = run_python(stock_script, config, '--cfg-options', *SHRINK, cwd=place)
    assert done.returncode == 0, done.stdout
    assert 'WAU holds slices of' in done.stdout
    assert 'active_fraction: 0.5' in done.stdout
    assert (place / 'work_dirs/retinanet/epoch_1.pth').is_file()


class KeepWeights(Hook):
    """Keeps all weights at the start and after each update."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.weights = []

    def before_train(self, runner):
        self.after_train_iter(runner)

    def after_train_iter(self, runner, *args, **kwargs):
        parameters = runner.model.named_parameters()
        self.weights.append({name: param.detach().cpu().clone() for name, param in parameters})


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes') / 'demo'
    make_shapes(root, {'train': 6, 'val': 2}, image_size=96)
    return root


@pytest.mark.slow
@pytest.mark.parametrize('wrapper', ['WAUOptimWrapper', 'OptimWrapper'])
def test_held_filters_of_a_detector_keep_every_bit(shapes, tmp_path, wrapper):
    """With momentum and weight decay; the baseline's wrapper beside it moves every filter."""
    cfg = Config.fromfile(DEMO)
    cfg.work_dir = str(tmp_path)
    cfg.custom_hooks = []
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.data_root = str(shapes)
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
    cfg.optim_wrapper = dict(
        type=wrapper, optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.001)
    )
    runner = Runner.from_cfg(cfg)
    kept = KeepWeights()
    runner.register_hook(kept)
    runner.train()
    assert len(kept.weights) == 7
    names = [name for name in kept.weights[0] if is_convolution(name, kept.weights[0])]
    assert len(names) == 28
    for update, (before, after) in enumerate(zip(kept.weights, kept.weights[1:], strict=False)):
        for name in names:
            moved = before[name].ne(after[name]).flatten(1).any(dim=1)
            if wrapper == 'OptimWrapper':
                assert moved.all(), name
            else:
                layer = runner.optim_wrapper.layers[name.removesuffix('.weight')]
                (active,) = WAU(0.5, seed=cfg.randomness.seed).select([layer], update)
                assert torch.equal(moved, active), (name, update)


@pytest.mark.slow
def test_the_config_of_a_resumed_training_is_tested_and_not_resumed(tmp_path):
    """A checkpoint of only weights will do, and so will a machine without the training data."""
    cfg = Config.fromstring(TINY, file_format='.py')
    cfg.update(resume=True, custom_imports=dict(imports=['tiny_classifier']))
    cfg.train_dataloader.dataset.type = 'NotHere'
    cfg.dump(tmp_path / 'config.py')
    torch.save(TinyClassifier().state_dict(), tmp_path / 'weights.pth')
    helpers = str(ROOT / 'tests' / 'helpers')
    done = run_python(TEST, 'config.py', 'weights.pth', cwd=tmp_path, PYTHONPATH=helpers)
    assert done.returncode == 0, done.stdout
    assert 'accuracy/top1' in done.stdout


def is_convolution(name, weights):
    return name.startswith(('backbone', 'neck')) and weights[name].dim() == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (
            [CONFIG],
            r'FileNotFoundError: train_dataloader.dataset.ann_file: data/coco/annotations/ins',
        ),
        (['none.py'], r'FileNotFoundError: The config none.py does not exist'),
        (
            [DEMO, '--cfg-options', 'optim_wrapper.update_ratio=2'],
            r'ValueError: update_ratio must be in \(0, 1\], got 2',
        ),
    ],
)
def test_wrong_input_is_reported_before_anything_is_made(tmp_path, arguments, words):
    done = run_python(TRAIN, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(words, done.stdout.splitlines()[-1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_amp_option_keeps_wau(shapes, tmp_path):
    # That WAU's AMP counterpart is refused for want of an accelerator shows what --amp asks for.
    done = run_python(TRAIN, DEMO, '--amp', cwd=tmp_path)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith('ValueError: optim_wrapper.type WAUAmpOptimWrapper (--amp) needs a GPU')
