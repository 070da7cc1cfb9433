"""Steps of a config with WAU and without: real steps, a table with each reading and ratio."""

import logging
import runpy
import sys
from typing import ClassVar

import pytest
import tiny_classifier
import torch
from detection import ROOT
from mmengine.config import Config
from mmengine.logging import MessageHub

from mmwau.benchmark.arms import PROCESSOR, WALL
from mmwau.benchmark.config_steps import BATCHES, ConfigTrainer, load_batches, with_wau

TOOL = ROOT / 'tools/analysis_tools/compare_steps.py'


def read_tiny(tmp_path):
    path = tmp_path / 'tiny.py'
    path.write_text(tiny_classifier.CONFIG)
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path / 'log')
    return cfg


def call(monkeypatch, *arguments):
    # The tool switches warnings of the log off.
    monkeypatch.setattr(logging.root.manager, 'disable', logging.root.manager.disable)
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
    runpy.run_path(str(TOOL), run_name='__main__')


@pytest.mark.parametrize(('ratio', 'moved'), [(0.5, 1), (1.0, 2)])
def test_steps_train_the_config_with_wau(tmp_path, ratio, moved):
    cfg = read_tiny(tmp_path)
    batches = load_batches(cfg)
    assert len(batches) == 2  # all 16 images; of more there would be BATCHES
    assert (
        len(
            load_batches(
                Config({**cfg, 'train_dataloader': {**cfg.train_dataloader, 'batch_size': 1}})
            )
        )
        == BATCHES
    )
    trainer = ConfigTrainer(with_wau(cfg, 'layers', ratio), batches, f'moves {moved}')
    weights = [trainer.model.backbone[place].weight for place in (0, 3)]
    before = [weight.detach().clone() for weight in weights]
    seconds = trainer.step()
    assert set(seconds) == {WALL, PROCESSOR}
    assert all(value > 0 for value in seconds.values())
    changed = [not torch.equal(old, new) for old, new in zip(before, weights, strict=True)]
    assert sum(changed) == moved
    assert 'WAU' not in cfg.optim_wrapper.get('type', '')


def test_each_arm_begins_as_its_training_would(tmp_path):
    """From load_from, which init_weights does not overwrite, with what the config switches on."""
    cfg = read_tiny(tmp_path)
    weights = torch.full((8, 4, 1, 1), 0.25)
    torch.save({'state_dict': {'backbone.0.weight': weights}}, tmp_path / 'start.pth')
    cfg.model.init_cfg = dict(type='Constant', layer='Conv2d', val=0.5)
    cfg.load_from = str(tmp_path / 'start.pth')
    cfg.activation_checkpointing = ['backbone']
    cfg.custom_hooks = [dict(type='NoSuchHook')]
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='NoSuchBackend')])
    cfg.param_scheduler = dict(type='LinearLR', start_factor=0.1, end=3)
    cfg.val_dataloader, cfg.val_cfg, cfg.val_evaluator = cfg.test_dataloader, {}, {}
    batches = load_batches(cfg)
    arms = [
        ConfigTrainer(arm, batches, f'begins {number}')
        for number, arm in enumerate([cfg, with_wau(cfg, 'paper', 0.5)])
    ]
    for arm in arms:
        assert torch.equal(arm.model.backbone[0].weight, weights)
        assert (arm.model.backbone[3].weight == 0.5).all()  # is not in the checkpoint
        assert 'forward' in vars(arm.model.backbone)  # of activation_checkpointing
    for old, new in zip(*(arm.model.parameters() for arm in arms), strict=True):
        assert torch.equal(old, new)


class AsksForIteration(tiny_classifier.TinyClassifier):
    """Reads the iteration and draws a number, as mmdet's BatchSyncRandomResize does."""

    seen: ClassVar[list[int]] = []
    drawn: ClassVar[list[float]] = []

    def forward(self, inputs, label, mode='tensor'):
        self.seen.append(MessageHub.get_current_instance().get_info('iter') + 1)
        self.drawn.append(torch.rand(1).item())
        return super().forward(inputs, label, mode)


def test_models_are_told_the_iteration_and_draw_the_same_in_each_arm(tmp_path):
    cfg = read_tiny(tmp_path)
    cfg.model.type = AsksForIteration
    batches = load_batches(cfg)
    arms = [ConfigTrainer(cfg, batches, f'asks {number}') for number in range(2)]
    for _ in range(2):
        for arm in arms:
            arm.step()
    assert AsksForIteration.seen == [1, 1, 2, 2]
    first, same, second, also = AsksForIteration.drawn
    assert first == same != second == also


def test_a_step_is_an_update_where_gradients_are_accumulated(tmp_path):
    cfg = read_tiny(tmp_path)
    cfg.optim_wrapper.accumulative_counts = 2
    trainer = ConfigTrainer(with_wau(cfg, 'paper', 0.5), load_batches(cfg), 'accumulates')
    for update in (1, 2):
        before = trainer.model.head.weight.detach().clone()
        trainer.step()
        assert not torch.equal(trainer.model.head.weight, before)
        assert trainer.wrapper.updates.index == update


def test_table_has_each_reading_and_ratio(tmp_path, monkeypatch, capsys):
    read_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    call(
        monkeypatch,
        *('tiny.py', '--wau', 'layers', 'authors', '--ratios', '0.25', '1'),
        *('--rounds', '6', '--max-rounds', '6'),
    )
    told = capsys.readouterr().out
    rows = [line.split('│')[1].strip() for line in told.splitlines() if line.startswith('│')]
    named = [row for row in rows if row]
    assert named == ['baseline', 'layers 0.25', 'layers 1', 'authors 0.25', 'authors 1']
    assert 'tiny.py, batch 8, threads:' in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ['tiny.py']


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--ratios', '0'], '--ratios must be in (0, 1], got 0.0'),
        (['--rounds', '5'], '--rounds must be at least 6 and at most --max-rounds, 100, got 5'),
        (['--rounds', '9', '--max-rounds', '8'], 'at most --max-rounds, 8, got 9'),
        (
            ['--cfg-options', 'train_dataloader.batch_size=17', 'train_dataloader.drop_last=True'],
            'its data set has 16 samples, and batch_size is 17',
        ),
        (
            ['--cfg-options', 'optim_wrapper.optimizer.lr=1e38'],
            'optim_wrapper.optimizer.lr=...',
        ),
        (
            ['--cfg-options', 'model.init_cfg.type=Pretrained', 'model.init_cfg.checkpoint=no.pth'],
            'model.init_cfg.checkpoint',
        ),
        (['--cfg-options', 'optim_wrapper.type=WAUOptimWrapper'], 'the config has WAU already'),
    ],
)
def test_what_it_can_not_measure(tmp_path, monkeypatch, capsys, arguments, words):
    read_tiny(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        call(monkeypatch, 'tiny.py', *arguments)
    assert words in capsys.readouterr().err
