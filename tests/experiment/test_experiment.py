import argparse
import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from detection import ROOT, run_python
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import MODELS
from PIL import Image
from scipy import stats

from mmwau.experiment.equal_terms import at_equal_loss, at_equal_movement, first_reach, interpolate
from mmwau.experiment.processes import find_processes
from mmwau.experiment.record import TrainingRecord, summarise_run, update_records
from mmwau.experiment.report import SuiteReport
from mmwau.experiment.suite import Suite, Training, _option, read_suite
from mmwau.experiment.trainer import SuiteTrainer, find_records
from mmwau.files.records import read_records, write_records
from mmwau.reporting.statistics import half_width, summarise
from mmwau.runs.reader import read_run
from mmwau.runs.report import MINUS, NO_BREAK

SCRIPT = ROOT / 'tools' / 'experiment.py'
CONFIG = """
custom_imports = dict(imports=['mmwau', 'experiment_parts'], allow_failed_imports=False)
default_scope = 'mmengine'
model = dict(type='SmallModel')
train_dataloader = dict(
    dataset=dict(type='SmallData'), batch_size=4, sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    dataset=dict(type='SmallData'), batch_size=4,
    sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='MeanOutput')
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
"""
BASELINE = (
    CONFIG
    + """
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
custom_hooks = [dict(type='OverlapHook', movement=True)]
"""
)
WAU = (
    CONFIG
    + """
optim_wrapper = dict(type='WAUOptimWrapper', optimizer=dict(type='SGD', lr=0.01))
custom_hooks = [dict(type='WAUHook', movement=True)]
"""
)
SUITE = """
title = 'Small networks'
metric = 'mean'
seeds = [0, 1]
settings = {'small': dict(config='configs/small{arm}.py')}
arms = {
    'baseline': dict(),
    'WAU': dict(config='_wau'),
    'wild': dict(options={'optim_wrapper.optimizer.lr': 1e30}),
    'broken': dict(options={'optim_wrapper.optimizer.lr': -1.0}),
}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run the tool from, with two small configs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/small.py').write_text(BASELINE)
    (tmp_path / 'configs/small_wau.py').write_text(WAU)
    return tmp_path


def write_suite(place, text=SUITE, **changes):
    for name, value in changes.items():
        text += f'{name} = {value!r}\n'
    (place / 'suite.py').write_text(text)
    return place / 'suite.py'


def load_tool():
    spec = importlib.util.spec_from_file_location('experiment', SCRIPT)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def run_tool(place, *arguments):
    return run_python(
        SCRIPT, 'suite.py', *arguments, cwd=place, PYTHONPATH=str(ROOT / 'tests' / 'helpers')
    )


def record(arm='baseline', seed=0, setting='small', status='finished', curves=None, **values):
    return TrainingRecord(
        setting,
        arm,
        seed,
        'command',
        f'{setting}{arm}{seed}',
        status,
        iterations=6,
        seconds=2.0,
        values=values,
        curves=curves or {},
    )


def ascii_signs(text):
    return text.replace(MINUS, '-').replace(NO_BREAK, ' ')


# Suites


def test_a_suite_is_settings_times_arms_times_seeds(place):
    suite = read_suite(write_suite(place, options={'train_cfg.max_epochs': 3}, processes=2))
    assert (suite.name, suite.title, suite.metric) == ('suite', 'Small networks', 'mean')
    assert suite.settings == {'small': ['baseline', 'WAU', 'wild', 'broken']}
    # All arms of the first seed come first.
    assert [(one.arm, one.seed) for one in suite.trainings[:5]] == [
        ('baseline', 0),
        ('WAU', 0),
        ('wild', 0),
        ('broken', 0),
        ('baseline', 1),
    ]
    wau, wild = suite.trainings[1:3]
    assert wau.cfg.optim_wrapper.type == 'WAUOptimWrapper'
    assert wild.cfg.optim_wrapper.optimizer.lr == 1e30
    assert wau.cfg.train_cfg.max_epochs == 3
    assert wau.cfg.randomness.seed == 0
    assert str(wau.folder) == 'small/wau/seed0'
    assert wau.command == [
        'bash',
        'tools/dist_train.sh',
        'configs/small_wau.py',
        '2',
        '--cfg-options',
        'train_cfg.max_epochs=3',
        'randomness.seed=0',
    ]


def test_settings_choose_arms_seeds_and_options(place):
    settings = {
        'one': dict(config='configs/small{arm}.py', arms=['WAU'], seeds=[7]),
        'two': dict(config='configs/small{arm}.py', options={'optim_wrapper.optimizer.lr': 0.5}),
    }
    suite = read_suite(write_suite(place, settings=settings))
    assert suite.settings == {'one': ['WAU'], 'two': ['baseline', 'WAU', 'wild', 'broken']}
    assert [one.seed for one in suite.trainings] == [7, 0, 0, 0, 0, 1, 1, 1, 1]
    rates = [one.cfg.optim_wrapper.optimizer.lr for one in suite.trainings]
    assert rates[:5] == [0.01, 0.5, 0.5, 1e30, -1.0]  # those of an arm count more


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(seeds=[]), r'suite.py lacks seeds, which a suite needs'),
        (dict(seeds=[1, 1]), r'seeds must be different integers in a list, got \[1, 1\]'),
        (dict(seeds='12'), r"seeds must be different integers in a list, got '12'"),
        (dict(seed=[1]), r'suite.py has seed, which a suite does not have; it can have title, met'),
        (dict(title=1), r'suite.py: title must be a string, got 1'),
        (dict(metric=['mean']), r"suite.py: metric must be a string, got \['mean'\]"),
        (dict(other_metrics='max'), r"other_metrics must be a list of strings, got 'max'"),
        (dict(options=[1]), r'suite.py: options must be a dict with strings as keys, got \[1\]'),
        (dict(settings=['x']), r"settings must be a dict with strings as keys, got \['x'\]"),
        (dict(arms=['baseline']), r"arms must be a dict with strings as keys, got \['baseline'\]"),
        (dict(arms={1: dict()}), r'arms must be a dict with strings as keys, got \{1: \{\}\}'),
        (dict(arms={'a': dict(config=1)}), r"arms\['a'\]: config must be a string, got 1"),
        (dict(arms={'a': dict(options=[1])}), r"arms\['a'\]: options must be a dict with strin"),
        (
            dict(settings={'x': dict(config='c', arms='baseline')}),
            r"settings\['x'\]: arms must be a list of strings, got 'baseline'",
        ),
        (
            dict(settings={'x': dict(config='c', arms=[['baseline']])}),
            r"settings\['x'\]: arms must be a list of strings, got \[\['baseline'\]\]",
        ),
        (dict(settings={'x': dict(config='c', seeds=[])}), r'seeds must be different integers in'),
        (dict(processes=0), r'processes must be at least 1, got 0'),
        (
            dict(arms={'baseline': dict(lr=1)}),
            r"arms\['baseline'\] has lr, which an arm does not have; it can have config, options",
        ),
        (
            dict(settings={'x': dict(config='configs/small{arm}.py', arms=['none'])}),
            r"settings\['x'\] has arms=\['none'\]; the arms are baseline, WAU, wild, broken",
        ),
        (
            dict(settings={'x': dict(arms=['none'])}),
            r"settings\['x'\] lacks config, which a setting needs",
        ),
        (dict(arms={'µ': dict()}), r"'µ' can not name a folder; a setting or arm needs a name"),
        (dict(arms={'..': dict()}), r"'..' can not name a folder"),
        (
            dict(options={'optim_wrapper.optimizer': dict(type='Adam', lr=0.1)}),
            r"'optim_wrapper.optimizer' has .'type': 'Adam', 'lr': 0.1., which would be read as",
        ),
        (dict(options={'a': 'x,y'}), r"'a' has 'x,y', which would be read as \['x', 'y'\]"),
        (dict(options={'a': '1'}), r"'a' has '1', which would be read as 1"),
        (
            dict(arms={'a+b': dict(), 'a-b': dict()}),
            r'two trainings would share a work_dir',
        ),
    ],
)
def test_wrong_suites_are_reported(place, changes, words):
    with pytest.raises(ValueError, match=words):
        read_suite(write_suite(place, **changes))


def test_the_seed_of_a_training_stands_in_its_options(place):
    suite = read_suite(
        write_suite(place, seeds=[3, 5], options={'a': 'runs/seed{seed}/1.pth', 'b': '1{seed}'})
    )
    for one in suite.trainings:
        assert one.options['a'] == f'runs/seed{one.seed}/1.pth'
        assert f'a=runs/seed{one.seed}/1.pth' in one.command
        # As the script that trains it reads it.
        assert one.options['b'] == int(f'1{one.seed}')


def test_files_that_do_not_exist_are_reported(place):
    with pytest.raises(FileNotFoundError, match=r'The suite none.py does not exist'):
        read_suite('none.py')
    # A config is no suite.
    (place / 'mine.py').write_text("_base_ = 'mmwau::faster_rcnn_r18_demo.py'")
    with pytest.raises(ValueError, match=r'mine.py lacks title, metric, seeds, settings, arms'):
        read_suite(place / 'mine.py')
    with pytest.raises(FileNotFoundError, match=r"the arm 'x' needs the config configs/small_x.py"):
        read_suite(write_suite(place, arms={'x': dict(config='_x')}))
    with pytest.raises(FileNotFoundError, match=r'needs the config \{x\}.py, which does not exist'):
        read_suite(write_suite(place, settings={'x': dict(config='{x}.py')}))


values = st.recursive(
    st.integers(-100, 100)
    | st.floats(0.001, 1000)
    | st.booleans()
    | st.none()
    | st.text('abcxyz_/.', min_size=1).filter(lambda text: not text.strip('.').isdigit()),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.lists(inner, min_size=2, max_size=3).map(tuple)
    ),
    max_leaves=5,
)


@given(values)
def test_options_are_read_by_the_script_as_they_were_meant(value):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args(['--cfg-options', f'key={_option(value)}'])
    assert args.cfg_options == {'key': value}


def test_the_digest_differs_where_training_does(place):
    def digests(**options):
        suite = read_suite(write_suite(place, options=options))
        return [one.digest for one in suite.trainings]

    baseline = digests()
    assert len(set(baseline)) == len(baseline) == 8
    assert digests() == baseline
    assert digests(**{'default_hooks.logger.interval': 2}) == baseline
    assert set(digests(**{'train_cfg.max_epochs': 3})).isdisjoint(baseline)
    assert digests(**{'optim_wrapper.hold': 'state'})[1] != baseline[1]
    assert digests(**{'default_hooks.sampler_seed': None}) != baseline
    together = read_suite(write_suite(place, processes=2)).trainings
    assert {one.digest for one in together}.isdisjoint(baseline)


def test_arms_that_differ_in_nothing_are_reported(place):
    misspelt = {'optim_wraper.optimizer.lr': 0.5}
    arms = {'baseline': dict(), 'slow': dict(options=misspelt)}
    suite = read_suite(write_suite(place, arms=arms))
    words = 'small / baseline / seed 0 and small / slow / seed 0 have the same settings'
    with pytest.raises(ValueError, match=words):
        find_records(suite.trainings, place)


# Statistics


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=9))
def test_intervals_are_those_of_the_paired_t_test(pairs):
    ours, theirs = zip(*pairs, strict=True)
    found = summarise([a - b for a, b in pairs])
    if found.std < 1e-6:
        return
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found.mean - half_width(found) == pytest.approx(interval.low, rel=1e-6, abs=1e-6)
    assert found.mean + half_width(found) == pytest.approx(interval.high, rel=1e-6, abs=1e-6)


def test_one_value_has_no_interval():
    assert half_width(summarise([3.0])) is None


# Equal terms


def test_first_reach_and_interpolation_by_hand():
    curve = [(10, 1.0), (20, 3.0), (30, 2.0), (40, 5.0)]
    assert first_reach(curve, 0.5) == 10
    assert first_reach(curve, 2.0) == 15
    assert first_reach(curve, 3.0) == 20
    assert first_reach(curve, 4.0) == pytest.approx(30 + 10 * 2 / 3)
    assert interpolate(curve, 25) == 2.5
    with pytest.raises(ValueError, match=r'level must be at most 5\.0, got 6'):
        first_reach(curve, 6)


def test_overlap_at_equal_terms():
    # The one comes to a loss of 1 after 10 iterations, the other one after 20. Path lengths start
    # at 0, whatever the first point is.
    fast = record(
        curves=dict(
            loss=[(0, 2.0), (10, 1.0), (20, 0.5)],
            path_length=[(15, 3.0), (20, 4.0)],
            overlap=[(0, 0.1), (20, 0.5)],
            displacement=[(10, 0.8), (20, 0.7)],
        )
    )
    slow = record(
        curves=dict(
            loss=[(0, 2.0), (20, 1.0)],
            path_length=[(20, 2.0)],
            displacement=[(20, 0.4)],
            overlap=[(0, 0.1), (20, 0.25)],
        )
    )
    assert at_equal_loss(slow, fast) == pytest.approx((0.25, 0.3))
    assert at_equal_loss(fast, slow) == pytest.approx((0.3, 0.25))
    assert at_equal_movement(slow, fast) == pytest.approx((0.25, 0.3))
    # Filters may come back: it counts when they were that far first.
    assert at_equal_movement(slow, fast, 'displacement') == pytest.approx((0.25, 0.2))
    assert at_equal_loss(fast, fast) == pytest.approx((0.5, 0.5))
    # Nobody knows when that one had the other's loss of 1: it was below after its first epoch.
    ahead = record(curves=dict(loss=[(5, 0.9), (20, 0.5)], overlap=[(0, 0.1), (20, 0.5)]))
    assert at_equal_loss(slow, ahead) is None
    without = record(curves=dict(loss=[(0, 1.0)]))
    assert at_equal_loss(without, fast) is None
    assert at_equal_movement(fast, without) is None


# Reports


def report_of(records, planned=None, seeds=(0, 1, 2)):
    arms = planned or list(dict.fromkeys(one.arm for one in records))
    trainings = [Training('small', arm, seed, None, {}) for seed in seeds for arm in arms]
    by_name = {(one.arm, one.seed): one for one in records}
    found = {one: by_name[one.arm, one.seed] for one in trainings if (one.arm, one.seed) in by_name}
    return SuiteReport(Suite('suite', 'Small networks', 'mean', trainings), found)


def rows(table):
    return {
        row[0]: dict(zip(table.columns[1:], map(ascii_signs, row[1:]), strict=True))
        for row in table.rows
    }


def test_tables_pair_by_seed():
    records = [
        record('baseline', seed, mean=mean, top=2 * mean, overlap=0.1, loss=1.0)
        for seed, mean in enumerate((50.0, 60.0, 70.0))
    ]
    records += [
        replace(record('WAU', seed, mean=mean, overlap=0.05, loss=1.0), seconds=3.0)
        for seed, mean in enumerate((51.0, 62.0, 73.0))
    ]
    report = report_of(records)
    report = replace(report, suite=replace(report.suite, other_metrics=['top']))
    (setting,) = report.settings
    table = rows(setting.table())
    assert (table['baseline']['top'], table['WAU']['top']) == ('120.00 ± 20.00', '–')
    assert table['baseline']['mean'] == '60.00 ± 10.00'
    assert table['baseline']['Gap (95 % interval)'] == '–'
    # 1, 2, 3: mean 2, standard deviation 1, t(2) = 4.303, 4.303 / sqrt(3) = 2.484.
    assert table['WAU']['Gap (95 % interval)'] == '+2.00 (-0.48, +4.48)'
    assert table['WAU']['runs'] == '3 of 3'
    assert table['WAU']['time'] == '1.50'
    overlap = rows(setting.overlap_table())
    assert overlap['WAU']['at the end'].startswith('-0.0500')
    assert overlap['WAU']['at equal path length'] == '–'


def test_all_settings_together_pair_by_setting_and_seed():
    values = {
        ('small', 'baseline'): (50.0, 60.0),
        ('small', 'WAU'): (51.0, 62.0),
        ('small', 'other'): (49.0, 61.0),
        ('large', 'baseline'): (70.0, 75.0),
        ('large', 'WAU'): (73.0, 77.0),
        ('large', 'other'): (69.0, 75.0),
        ('large', 'here alone'): (10.0, 10.0),
    }
    trainings = {
        Training(setting, arm, seed, None, {}): replace(
            record(arm, seed, mean=value), setting=setting
        )
        for (setting, arm), both in values.items()
        for seed, value in enumerate(both)
    }
    suite = Suite('suite', 'Two networks', 'mean', list(trainings))
    report = SuiteReport(suite, trainings)
    table = rows(report.tables()[0])
    assert list(table) == ['baseline', 'WAU', 'other']
    assert table['baseline'] == {
        'mean mean': '63.75',
        'pairs': '–',
        'Gap (95 % interval)': '–',
        'p': '–',
        'p (Holm)': '–',
    }
    # Gaps 1, 2, 3, 2 and -1, 1, -1, 0.
    chances = [
        stats.ttest_rel(ours, (50, 60, 70, 75)).pvalue
        for ours in ((51, 62, 73, 77), (49, 61, 69, 75))
    ]
    assert table['WAU']['mean mean'] == '65.75'
    assert (table['WAU']['pairs'], table['WAU']['p']) == ('4', f'{chances[0]:.4f}')
    assert table['WAU']['Gap (95 % interval)'] == '+2.00 (+0.70, +3.30)'
    # Of two: the smaller one counts twice, the larger one as it is.
    assert table['WAU']['p (Holm)'] == f'{2 * chances[0]:.4f}'
    assert table['other']['p (Holm)'] == table['other']['p'] == f'{chances[1]:.4f}'
    assert '**Over all settings**' in report.to_markdown('', [])


def test_gaps_to_different_baselines_are_not_mixed():
    trainings = {
        Training(setting, arm, seed, None, {}): replace(
            record(arm, seed, mean=float(seed)), setting=setting
        )
        for setting, arms in (('small', ('a', 'b')), ('large', ('b', 'a')))
        for arm in arms
        for seed in range(3)
    }
    report = SuiteReport(Suite('suite', 'Two', 'mean', list(trainings)), trainings)
    assert [table.title for table in report.tables()][::2] == ['small', 'large']
    small, large = report.draw_gaps().axes
    assert small.get_title(loc='left') == 'small (baseline: a)'
    assert large.get_title(loc='left') == 'large (baseline: b)'
    assert large.get_xlabel().startswith(f'mean: arm {MINUS} its baseline')


def test_one_setting_has_no_table_over_all():
    report = report_of([record(arm, seed, mean=seed) for arm in 'ab' for seed in range(3)])
    assert report.tables()[0].title == 'small'


def test_the_time_to_the_metric_of_the_baseline():
    def trained(arm, seed, end, curve, seconds):
        found = record(arm, seed, mean=end, curves=dict(mean=curve))
        return replace(found, seconds=seconds, iterations=40)

    report = report_of(
        [
            trained('baseline', 0, 0.5, [(10, 0.1), (20, 0.6), (40, 0.5)], 10.0),
            trained('baseline', 1, 0.5, [(20, 0.4), (40, 0.5)], 10.0),
            # Reaches 0.5 in the middle between iterations 10 and 20, and runs half as fast.
            trained('WAU', 0, 0.6, [(10, 0.4), (20, 0.6), (40, 0.6)], 20.0),
            trained('WAU', 1, 0.3, [(10, 0.4), (40, 0.3)], 20.0),
        ],
        seeds=(0, 1),
    )
    (setting,) = report.settings
    assert setting.times_to_baseline('WAU') == [pytest.approx(15 / 40 * 2), None]
    # 18 of 40 iterations, and all.
    assert setting.times_to_baseline('baseline') == pytest.approx([0.45, 1])
    # Records of earlier versions have what is no measurement.
    nothing = [
        replace(setting.arms['baseline'][0], values=dict(mean=value)) for value in (-1, math.nan)
    ]
    for one in nothing:
        without = replace(setting, arms={'baseline': [one], 'WAU': setting.arms['WAU']})
        assert without.times_to_baseline('WAU') == []
    # Two measurements, or three, are too few to be shown.
    assert setting.table().columns[-1] == 'time'


def test_the_time_to_the_metric_of_the_baseline_is_shown_where_it_was_measured_often():
    curves = dict(mean=[(step, step / 10) for step in range(1, 7)])
    report = report_of([record(arm, 0, mean=0.3, curves=curves) for arm in ('baseline', 'WAU')])
    (setting,) = report.settings
    assert rows(setting.table())['WAU']["time to baseline's metric"] == '0.50 (1/1)'
    # Of a metric that falls less is better: it would be reached at once.
    falling = dict(mean=[(step, 1 - step / 10) for step in range(1, 7)])
    report = report_of([record(arm, 0, mean=0.4, curves=falling) for arm in ('baseline', 'WAU')])
    assert report.settings[0].table().columns[-1] == 'time'


def test_nothing_is_dropped_silently():
    records = [
        record('baseline', 0, mean=0.5),
        record('baseline', 1, mean=0.5),
        record('baseline', 2, mean=0.6),
        record('WAU', 0, mean=0.7),
        record('WAU', 1, status='diverged'),
        replace(record('WAU', 2, status='failed'), error='exit status 1: no memory'),
        replace(record('other', 0, mean=0.7), starts=3),
        record('third', 0, top=0.7),
    ]
    report = report_of(records, planned=['baseline', 'WAU', 'other', 'third'])
    report = replace(report, others=[record('old', 5)])
    said = '\n'.join(report.warnings())
    assert 'small / WAU / seed 1 diverged and is left out of the means' in said
    assert 'small / WAU / seed 2 failed and is left out: exit status 1: no memory' in said
    assert 'small / other / seed 0 was trained in 3 parts; after a break random augment' in said
    assert 'small / third / seed 0 has no mean and is left out of its mean; it has top.' in said
    assert '4 of 12 trainings are not done: small / other / seed 1, small / third / seed 1' in said
    assert (
        '1 results do not count, since the suite or a config was changed since: small / old' in said
    )
    assert 'one pair of runs says nothing about chance (WAU; other); train more seeds' in said
    assert rows(report.settings[0].table())['WAU']['runs'] == '1 of 3'
    page = report.to_markdown('the command', ['picture.png'])
    for told in report.warnings():
        assert f'- {told}\n' in page
    assert '```bash\nthe command\n```' in page
    assert '![picture.png](picture.png)' in page


def test_seeds_that_are_too_few_are_reported():
    records = [
        record(arm, seed, mean=50.0 + seed * sign)
        for arm, sign in (('baseline', 1), ('WAU', -1))
        for seed in (0, 1)
    ]
    said = report_of(records, seeds=(0, 1)).warnings()
    # Gaps of 0 and -2: 12.706 * sqrt(2) / sqrt(2).
    assert said == [
        'small: 1 of 1 gaps cannot be distinguished from 0; only gaps above about 12.71 could be',
        'small: too few seeds to show any but huge gaps: WAU (2)',
    ]


def test_overlap_that_starts_elsewhere_is_reported():
    def trained(arm, seed, start):
        return record(arm, seed, mean=50.0 + seed, curves=dict(overlap=[(0, start), (6, 0.2)]))

    same = [trained('baseline', 0, 0.1), trained('WAU', 0, 0.100001), trained('late', 0, 0.3)]
    same[2] = replace(same[2], curves=dict(overlap=[(3, 0.3)]))
    assert 'at the start' not in ' '.join(report_of(same).warnings())
    other = [*same, trained('baseline', 1, 0.1), trained('other', 1, 0.12)]
    assert (
        'small: with the same seed the overlap at the start is not that of baseline (other): it is '
        'measured in other layers, or training begins with other weights'
    ) in report_of(other).warnings()


def test_a_baseline_that_failed_is_reported():
    records = [record('baseline', 0, status='failed'), record('WAU', 0, mean=50.0)]
    report = report_of(records, seeds=(0,))
    assert report.warnings()[1] == 'small: no training of baseline is finished: there are no gaps'
    assert report.draw_gaps() is None
    assert rows(report.settings[0].table())['WAU']['Gap (95 % interval)'] == '–'


def test_a_metric_that_no_training_has_is_reported():
    records = [
        record('baseline', seed, top=1.0, curves=dict(overlap=[(0, 1.0)])) for seed in (0, 1)
    ]
    report = report_of(records, seeds=(0, 1))
    assert (
        'small / baseline / seed 0 has no mean and is left out of its mean' in report.warnings()[0]
    )
    assert rows(report.settings[0].table())['baseline']['mean'] == '–'
    report.settings[0].draw_curves()


@pytest.mark.parametrize('nothing', [-1.0, math.nan])
def test_what_is_no_measurement_has_no_mean_and_no_gap(nothing):
    # As records of earlier versions have it.
    records = [
        record(
            arm,
            seed,
            mean=nothing,
            top=50.0 + seed,
            loss=-1.0,
            curves=dict(mean=[[3, nothing], [6, 0.5]]),
        )
        for arm in ('baseline', 'WAU')
        for seed in (0, 1)
    ]
    records += [record('baseline', 2, mean=0.5, loss=-1.0), record('WAU', 2, mean=0.75, loss=-1.0)]
    report = report_of(records)
    report = replace(report, suite=replace(report.suite, other_metrics=['top']))
    (setting,) = report.settings
    table = rows(setting.table())
    assert table['baseline']['mean'] == '0.500'
    assert table['WAU']['Gap (95 % interval)'] == '+0.250'
    assert table['WAU']['top'] == '50.50 ± 0.71'.replace('50.50', '50.500').replace('0.71', '0.707')
    assert table['WAU']['training loss'] == '-1.000 ± 0.000'
    said = report.warnings()
    for arm in ('baseline', 'WAU'):
        for seed in (0, 1):
            begin = f'small / {arm} / seed {seed} has no mean and is left out of its mean; it has '
            assert any(one.startswith(begin) for one in said)
        begin = f'small / {arm} / seed 2 has no top and is left out of its mean; it has mean'
        assert any(one.startswith(begin) for one in said)
    assert setting.draw_curves().axes[0].lines[0].get_xydata().tolist() == [[6, 0.5]]


def test_a_suite_whose_metric_was_changed_has_the_curve_of_the_new_one(place):
    (training,) = read_suite(write_suite(place, arms={'baseline': {}}, seeds=[0])).trainings
    run = log_run(place / 'run', [2.0, 1.0], mean=0.25, top=0.75)
    ended = replace(summarise_run(training, run, '', 0.0), setting='small')
    for metric, value in (('mean', 0.25), ('top', 0.75)):
        report = SuiteReport(Suite('suite', 'One', metric, [training]), {training: ended})
        (setting,) = report.settings
        assert setting.draw_curves().axes[0].lines[0].get_xydata().tolist() == [
            [1, value],
            [2, value],
        ]


def test_the_curve_of_an_earlier_version_is_that_of_the_metric_that_it_ends_with():
    old = record(mean=0.5, top=0.9, curves=dict(metric=[[3, 0.25], [6, 0.5]]))
    assert old.curve('mean') == [[3, 0.25], [6, 0.5]]
    assert old.curve('top') == []
    report = report_of([old], seeds=(0,))
    report = replace(report, suite=replace(report.suite, metric='top'))
    told = (
        'small / baseline / seed 0 has no curve of top: the version of mmwau that trained it kept'
    )
    assert report.warnings()[0].startswith(told)
    # What is not known is no training that never came there.
    assert report.settings[0].times_to_baseline('baseline') == []


def curves_of(steps, seed, **more):
    curves = {name: [(step, step + seed) for step in steps] for name in ('mean', 'overlap', 'loss')}
    return dict(curves, **more)


def test_pictures_have_six_arms_in_a_panel_and_the_baseline_in_all():
    names = ['baseline', *'abcdefg']
    records = [
        record(arm, seed, curves=curves_of([1, 2], seed)) for arm in names for seed in (0, 2)
    ]
    figure = report_of(records, seeds=(0, 2)).settings[0].draw_curves()
    figure.canvas.draw()
    first, second = figure.subfigs
    shown = [[text.get_text() for text in part.legends[0].get_texts()] for part in (first, second)]
    assert shown == [['baseline', *'abcd'], ['baseline', *'efg']]
    for part in (first, second):
        (legend,) = part.legends
        above = max(axes.get_tightbbox().y1 for axes in part.axes)
        assert legend.get_window_extent().y0 >= above
        assert legend.get_window_extent().y1 <= part.bbox.y1
        assert len(part.axes) == 6


def test_what_was_not_measured_has_no_panel():
    moved = {name: [(1, 0.1), (2, 0.2)] for name in ('path_length', 'displacement')}
    for more, panels in ((moved, 6), ({}, 4)):
        records = [record(curves=curves_of([1, 2], 0, **more))]
        figure = report_of(records, seeds=(0,)).settings[0].draw_curves()
        assert sum(axes.axison for axes in figure.axes) == panels


@pytest.mark.parametrize('points', [9, 10])
def test_few_points_are_marks_with_bars_and_many_are_lines_with_bands(points):
    steps = [10 * step for step in range(1, points + 1)]
    records = [record(arm, seed, curves=curves_of(steps, seed)) for arm in 'ab' for seed in (0, 2)]
    figure = report_of(records, seeds=(0, 2)).settings[0].draw_curves()
    metric = figure.axes[0]
    assert [line.get_label() for line in metric.lines] == ['a', 'b']
    for line in metric.lines:
        assert line.get_xydata().tolist() == [[step, step + 1] for step in steps]
    band, bars = 'bands: ± std over the seeds', 'arms side by side; bars: ± std over the seeds'
    assert metric.get_title('right') == (bars if points == 9 else band)
    # Mean ± the standard deviation of 0 and 2, around the mean at the first step.
    half = math.sqrt(2)
    ends = np.array([11 - half, 11 + half])
    figure.canvas.draw()
    if points == 9:
        drawn = [part.get_segments()[0][:, 1] for part in metric.collections]
        # Nothing of it is cut off, and no arm hides the other.
        boxes = [line.get_window_extent() for line in metric.lines]
        assert all(metric.bbox.x0 <= box.x0 and box.x1 <= metric.bbox.x1 for box in boxes)
        assert boxes[1].x0 - boxes[0].x0 == pytest.approx(5 * figure.dpi / 72)
        assert all(line.get_linestyle() == ':' for line in metric.lines)
    else:
        drawn = [
            np.unique(path.vertices[path.vertices[:, 0] == 10][:, 1])
            for part in metric.collections
            for path in part.get_paths()
        ]
    assert len(drawn) == 2
    for one in drawn:
        assert np.sort(one) == pytest.approx(ends)


def test_the_overlap_is_drawn_along_the_lowest_loss_so_far():
    curves = dict(overlap=[(0, 0.1), (2, 0.2), (4, 0.3)], loss=[(0, 3.0), (2, 1.0), (4, 2.0)])
    axes = report_of([record(curves=curves)], seeds=(0,)).settings[0].draw_curves().axes[3]
    assert axes.lines[0].get_xydata().tolist() == [[3.0, 0.1], [1.0, 0.2], [1.0, 0.3]]


def log_run(work_dir, losses, **metrics):
    """The log of a training of 2 epochs with one iteration each, as MMEngine writes it."""
    folder = work_dir / '20260101_000000' / 'vis_data'
    folder.mkdir(parents=True)
    lines = []
    for epoch, loss in enumerate(losses, start=1):
        lines.append({'loss': loss, 'epoch': epoch, 'iter': epoch, 'step': epoch})
        lines.append({'time': 0.1, 'step': epoch, **metrics})
    lines.append({'overlap': 0.25, 'step': 2})
    (folder / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (folder / 'config.py').write_text(BASELINE)
    return read_run(work_dir)


def test_records_hold_only_measurements(place):
    (training,) = read_suite(write_suite(place, arms={'baseline': {}}, seeds=[0])).trainings
    metrics = {'mean': -1.0, 'coco/bbox_mAP': 0.5, 'coco/cat_precision': math.nan}
    one = summarise_run(training, log_run(place / 'a', [2.0, 1.0], **metrics), '', 0.0)
    assert (one.status, one.values) == (
        'finished',
        {'coco/bbox_mAP': 0.5, 'loss': 1.0, 'overlap': 0.25},
    )
    assert one.curves['mean'] == []
    assert one.curves['coco/bbox_mAP'] == [(1, 0.5), (2, 0.5)]
    one = summarise_run(training, log_run(place / 'b', [2.0, math.nan]), '', 0.0)
    assert (one.status, one.values) == ('diverged', {'overlap': 0.25})
    assert one.curves['loss'] == [(1, 2.0)]
    assert one.iterations == 2
    # A hook may end a training early.
    stopped = replace(log_run(place / 'd', [2.0, 1.0], mean=0.5), length=8)
    assert summarise_run(training, stopped, '', 0.0).curves['mean'] == [(1, 0.5), (2, 0.5)]
    in_first_epoch = replace(log_run(place / 'e', [2.0]), validations=[])
    assert in_first_epoch.trained == 0
    assert summarise_run(training, in_first_epoch, '', 0.0).curves['loss'] == [(1, 2.0)]
    # It lost its way and found it again.
    one = summarise_run(training, log_run(place / 'c', [math.inf, 1.0]), '', 0.0)
    assert (one.status, one.values['loss']) == ('finished', 1.0)


def test_a_clear_gap_gives_no_warning():
    records = [
        record(arm, seed, mean=mean + seed * 0.01 * mean)
        for arm, mean in (('baseline', 50.0), ('WAU', 60.0))
        for seed in (0, 1, 2)
    ]
    assert report_of(records).warnings() == []


def test_records_come_back_from_their_file(tmp_path):
    records = [
        record('baseline', 0, mean=0.5, curves=dict(loss=[(1, 2.0)])),
        record('WAU', status='failed'),
    ]
    write_records(records, tmp_path / 'r.json')
    assert [json.dumps(vars(one)) for one in read_records(TrainingRecord, tmp_path / 'r.json')] == [
        json.dumps(vars(one)) for one in records
    ]
    assert read_records(TrainingRecord, tmp_path / 'none.json') == []
    (tmp_path / 'r.json').write_text('[{"x": 1}]')
    with pytest.raises(ValueError, match=r'r.json is not what this tool writes'):
        read_records(TrainingRecord, tmp_path / 'r.json')


def test_records_of_an_earlier_version_have_the_names_of_this_one(tmp_path):
    curves = dict(movement=[(3, 0.5)], displacement=[(3, 0.25)])
    old = vars(record(movement=0.5, displacement=0.25, mean=60.0)) | dict(curves=curves)
    (tmp_path / 'r.json').write_text(json.dumps([old]))
    (found,) = read_records(TrainingRecord, tmp_path / 'r.json')
    assert found.values == dict(path_length=0.5, displacement=0.25, mean=60.0)
    assert found.curves == dict(path_length=[[3, 0.5]], displacement=[[3, 0.25]])


def test_a_renamed_training_has_one_record(place, capfd):
    suite = read_suite(write_suite(place, arms={'baseline': {}}, seeds=[0]))
    (training,) = suite.trainings
    curves = dict(metric=[[3, 50.0], [6, 60.0]], loss=[[6, 1.0]], overlap=[[0, 0.1], [6, 0.2]])
    old = replace(record('plain', mean=60.0, curves=curves), digest=training.digest)
    failed = replace(old, arm='baseline', status='failed', digest='another')
    write_records([old, failed], place / 'results/suite.json')
    load_tool().main(['suite.py', '--report', '--out', 'results'])
    assert read_records(TrainingRecord, place / 'results/suite.json') == [
        replace(old, arm='baseline')
    ]
    assert 'results do not count' not in capfd.readouterr().out


def test_a_training_that_fails_does_not_replace_one_that_came_to_its_end(tmp_path):
    path = tmp_path / 'suite.json'
    ended = [record('baseline', 0, mean=0.5), record('wild', 0, status='diverged')]
    update_records([*ended, record('broken', 0, status='failed')], path)
    failed = [
        replace(record(arm, 0, status='failed'), digest=f'new {arm}', error='no memory')
        for arm in ('baseline', 'wild', 'broken', 'more')
    ]
    update_records(failed, path)
    found = {one.arm: (one.status, one.error) for one in read_records(TrainingRecord, path)}
    assert found == dict(
        baseline=('finished', ''),
        wild=('diverged', ''),
        broken=('failed', 'no memory'),
        more=('failed', 'no memory'),
    )
    assert len(read_records(TrainingRecord, path)) == 4
    update_records([replace(ended[0], digest='new', values=dict(mean=0.75))], path)
    kept = {one.arm: one for one in read_records(TrainingRecord, path)}
    assert kept['baseline'].values == dict(mean=0.75)
    assert len(kept) == 4


# The tool


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A suite that was trained, and what the tool said."""
    place = tmp_path_factory.mktemp('finished')
    (place / 'tools').symlink_to(ROOT / 'tools')
    (place / 'configs').mkdir()
    (place / 'configs/small.py').write_text(BASELINE)
    (place / 'configs/small_wau.py').write_text(WAU)
    write_suite(place)
    return place, run_tool(place, '--jobs', '2', '--out', 'results [v1]')


@pytest.mark.slow
class TestTool:
    def test_every_training_is_recorded_failed_ones_too(self, finished):
        place, done = finished
        assert done.returncode == 1, done.stdout  # one arm can't be trained
        records = read_records(TrainingRecord, place / 'results [v1]/suite.json')
        status = {(one.arm, one.seed): one.status for one in records}
        expected = dict(baseline='finished', WAU='finished', wild='diverged', broken='failed')
        assert status == {(arm, seed): expected[arm] for arm in expected for seed in (0, 1)}
        assert done.stdout.count('failed: small / broken / seed') == 2
        assert 'Invalid learning rate: -1.0' in done.stdout
        assert re.search(r'Warning: small / wild / seed 0 diverged', done.stdout)

    def test_records_hold_what_was_logged(self, finished):
        place, _ = finished
        records = read_records(TrainingRecord, place / 'results [v1]/suite.json')
        for one in (one for one in records if one.finished):
            run = read_run(place / 'work_dirs/suite/small' / one.arm.lower() / f'seed{one.seed}')
            assert one.iterations == 6
            assert one.values['mean'] == pytest.approx(run.final('mean'), rel=1e-5)
            assert one.values['overlap'] == pytest.approx(run.final('overlap'), rel=1e-5)
            assert one.values['path_length'] == pytest.approx(run.final('path_length'), rel=1e-5)
            losses = list(run.loss.values())
            means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
            assert [step for step, _ in one.curves['loss']] == [2, 5]
            assert [value for _, value in one.curves['loss']] == pytest.approx(means, rel=1e-5)
            assert [step for step, _ in one.curves['mean']] == [3, 6]
            # Processor time of the whole process, most of which is its start; on a GPU the median
            # time of an iteration times their number.
            assert one.seconds > (1 if get_device() == 'cpu' else 0)

    def test_commands_repeat_the_run(self, finished):
        place, _ = finished
        one = read_records(TrainingRecord, place / 'results [v1]/suite.json')[0]
        said = one.command.split()
        assert said[0] == 'python'
        done = run_python(
            *said[1:], '--work-dir', 'again', cwd=place, PYTHONPATH=str(ROOT / 'tests' / 'helpers')
        )
        assert done.returncode == 0, done.stdout
        assert read_run(place / 'again').final('mean') == pytest.approx(
            one.values['mean'], rel=1e-5
        )

    def test_tables_and_pictures(self, finished):
        place, _ = finished
        page = (place / 'results [v1]/suite.md').read_text()
        assert page.startswith('# Small networks\n')
        assert '| WAU | 2' in page
        for name in ('suite_gaps.png', 'suite_1.png'):
            assert f'({name})' in page
            with Image.open(place / 'results [v1]' / name) as image:
                assert image.width > 500

    def test_what_is_finished_is_not_trained_again(self, finished, monkeypatch, capfd):
        place, _ = finished
        monkeypatch.chdir(place)
        logs = sorted(place.glob('work_dirs/suite/small/*/*/2*'))
        only = ['suite.py', '--only', 'seed 0', 'WAU', '--out', 'results [v1]']
        assert load_tool().main(only) == 0
        assert '8 trainings, 6 done, 0 to train' in capfd.readouterr().out
        # Published results do without the work_dirs.
        load_tool().main([*only, '--work-dir', 'elsewhere'])
        assert '8 trainings, 6 done, 0 to train' in capfd.readouterr().out
        with pytest.raises(ValueError, match='--only nothing: no training of suite has this in'):
            load_tool().main(['suite.py', '--only', 'nothing'])
        assert sorted(place.glob('work_dirs/suite/small/*/*/2*')) == logs

    def test_changed_settings_are_refused(self, finished, monkeypatch):
        place, _ = finished
        monkeypatch.chdir(place)
        write_suite(place, options={'train_cfg.max_epochs': 5})
        words = (
            r'These hold trainings with other settings than the suite has now: work_dirs/suite/'
            r'small/baseline/seed0, work_dirs/suite/small/wau/seed0, \S+ and 3 more'
        )
        with pytest.raises(ValueError, match=words):
            load_tool().main(['suite.py', '--report'])
        write_suite(place)

    def test_results_of_other_settings_are_kept_and_reported(self, finished, monkeypatch, capfd):
        place, _ = finished
        monkeypatch.chdir(place)
        before = (place / 'results [v1]/suite.json').read_text()
        write_suite(place, options={'train_cfg.max_epochs': 5})
        load_tool().main(
            ['suite.py', '--report', '--out', 'results [v1]', '--work-dir', 'elsewhere']
        )
        write_suite(place)
        assert (place / 'results [v1]/suite.json').read_text() == before
        assert 'No training is finished: there is nothing to compare' in capfd.readouterr().out

    def test_a_retraining_that_fails_leaves_the_result_that_it_was_to_replace(
        self, finished, monkeypatch, capfd
    ):
        place, _ = finished
        monkeypatch.chdir(place)
        monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests' / 'helpers'))
        before = read_records(TrainingRecord, place / 'results [v1]/suite.json')
        write_suite(place, options={'model.type': 'Nothing'})
        arguments = ['--out', 'results [v1]', '--work-dir', 'anew', '--only', 'baseline', 'seed 0']
        assert load_tool().main(['suite.py', *arguments]) == 1
        write_suite(place)
        assert 'failed: small / baseline / seed 0' in capfd.readouterr().out
        after = read_records(TrainingRecord, place / 'results [v1]/suite.json')
        assert sorted(map(str, after)) == sorted(map(str, before))
        load_tool().main(['suite.py', '--report', '--out', 'results [v1]'])
        said = capfd.readouterr().out
        assert re.search(r'baseline +│ 2 of 2', ascii_signs(said))

    def test_list_shows_state_and_command(self, finished, monkeypatch, capfd):
        place, _ = finished
        monkeypatch.chdir(place)
        load_tool().main(['suite.py', '--list'])
        lines = capfd.readouterr().out.splitlines()
        assert lines[0] == 'finished: small / baseline / seed 0'
        assert lines[1] == (
            '    python tools/train.py configs/small.py --cfg-options randomness.seed=0 '
            '--work-dir work_dirs/suite/small/baseline/seed0'
        )
        assert 'to do: small / broken / seed 1' in lines


def start_tool(place):
    return subprocess.Popen(
        [sys.executable, SCRIPT, 'suite.py'],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Where tests run in the background, Ctrl-C is ignored, and would be here too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT / 'tests' / 'helpers')},
    )


def wait_until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, 'waited for two minutes'
        time.sleep(0.1)


@pytest.fixture
def waiting(place):
    """A suite of one training, which waits in its second epoch."""
    with (place / 'configs/small.py').open('a') as config:
        config.write("custom_hooks += [dict(type='WaitFor', path='go')]\n")
    write_suite(place, arms={'baseline': {}}, seeds=[0])
    return place


@pytest.mark.slow
def test_a_killed_tool_waits_for_what_it_left_and_goes_on_afterwards(waiting):
    tool = start_tool(waiting)
    folder = waiting / 'work_dirs/suite/small/baseline/seed0'
    wait_until((folder / 'last_checkpoint').is_file)
    tool.kill()
    tool.wait()
    left = find_processes([folder])
    done = run_tool(waiting)
    assert done.returncode == 1
    told = f'are running in work_dirs/suite. Wait for them or end them (kill {left[0].pid}'
    assert told in done.stdout.splitlines()[-1]
    # The training that is left over comes to its end by itself; its record is made afterwards.
    (waiting / 'go').touch()
    psutil.wait_procs(left, 120)
    assert run_tool(waiting).returncode == 0
    (one,) = read_records(TrainingRecord, waiting / 'work_dirs/suite/suite.json')
    assert (one.status, one.iterations, one.starts) == ('finished', 6, 1)


@pytest.mark.slow
def test_a_stopped_tool_ends_its_trainings_and_a_copy_resumes_them(waiting):
    tool = start_tool(waiting)
    folder = waiting / 'work_dirs/suite/small/baseline/seed0'
    wait_until((folder / 'last_checkpoint').is_file)
    tool.send_signal(signal.SIGINT)
    said = tool.communicate()[0]
    assert tool.returncode == 130, said
    assert 'Stopped; the same command goes on from the last checkpoints' in said
    (waiting / 'go').touch()
    shutil.copytree(waiting / 'work_dirs/suite', waiting / 'copy')
    before = sorted((waiting / 'work_dirs').rglob('*'))
    done = run_tool(waiting, '--work-dir', 'copy')
    assert done.returncode == 0, done.stdout
    assert sorted((waiting / 'work_dirs').rglob('*')) == before
    log = (waiting / 'copy/small/baseline/seed0/output.log').read_text()
    assert 'Load checkpoint from copy/small/baseline/seed0/epoch_1.pth' in log
    assert 'resumed epoch: 1, iter: 3' in log
    (one,) = read_records(TrainingRecord, waiting / 'copy/suite.json')
    assert (one.status, one.iterations, one.starts, one.seconds) == ('finished', 6, 2, 0)
    assert 'seed 0 was trained in 2 parts' in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='names GPUs that are not there')
def test_processes_of_a_training_get_their_gpus_and_none_is_left_behind(place, monkeypatch):
    with (place / 'configs/small.py').open('a') as config:
        config.write("custom_hooks += [dict(type='WaitFor', path='go'), dict(type='KeepGPUs')]\n")
    suite = read_suite(write_suite(place, arms={'baseline': {}}, seeds=[0, 1], processes=2))
    trainer = SuiteTrainer(Path('runs'), jobs=4, gpus=['3', '5', '7'])
    folder = Path('runs/small/baseline/seed0')
    seen, ended = [], []

    def wait():
        seen.append(len(trainer.running))
        if (folder / 'last_checkpoint').is_file():
            raise InterruptedError  # as Ctrl-C would

    monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests' / 'helpers'))
    with pytest.raises(InterruptedError):
        trainer.train(suite.trainings, ended.append, wait)
    assert set(seen) == {1}  # the other one has to wait for GPUs
    assert find_processes([folder]) == []
    assert not list(folder.glob('epoch_2.pth'))
    (place / 'go').touch()
    trainer = SuiteTrainer(Path('runs'), jobs=4, gpus=['3', '5', '7'])
    trainer.train(suite.trainings, ended.append, lambda: None)
    told = [(one.status, one.starts, one.error) for one in ended]
    assert told == [('finished', 2, ''), ('finished', 1, '')]
    gpus = [
        sorted(path.read_text() for path in place.glob(f'runs/*/*/seed{seed}/gpus_?'))
        for seed in (0, 1)
    ]
    assert gpus == [['3,5', '3,5'], ['7,3', '7,3']]


def test_too_few_gpus_are_reported(tmp_path):
    trainings = [Training('s', 'a', seed, None, {}, processes=2) for seed in range(3)]
    with pytest.raises(ValueError, match=r'--gpus must name at least 2 GPUs.*got 5'):
        SuiteTrainer(tmp_path, gpus=['5']).train(trainings, print, print)


@pytest.mark.parametrize('gpus', [['0', '0'], ['99']])
def test_gpus_that_are_not_there_are_reported(gpus, capsys):
    with pytest.raises(SystemExit):
        load_tool().parse_args(['suite.py', '--gpus', *gpus])
    assert f'--gpus takes numbers of GPUs, each once, as in --gpus 0 1; got {" ".join(gpus)}' in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_config_that_changes_meanwhile_is_reported(place, monkeypatch):
    suite = read_suite(write_suite(place, arms={'baseline': {}}, seeds=[0]))
    (training,) = suite.trainings
    assert training.digest  # the tool has read the config
    text = (place / 'configs/small.py').read_text()
    (place / 'configs/small.py').write_text(text.replace('lr=0.01', 'lr=0.02'))
    ended = []
    monkeypatch.setenv('PYTHONPATH', str(ROOT / 'tests' / 'helpers'))
    SuiteTrainer(Path('runs')).train([training], ended.append, lambda: None)
    assert ended[0].status == 'failed'
    assert 'configs/small.py was changed after the tool had read it' in ended[0].error


def test_nobody_knows_how_long_a_training_took_that_was_begun_by_hand(place, monkeypatch):
    (training,) = read_suite(write_suite(place, arms={'baseline': {}}, seeds=[0])).trainings
    folder = place / 'runs' / training.folder
    log_run(folder, [2.0, 1.0], mean=0.5)
    with open(next(folder.glob('*/vis_data/config.py')), 'a') as config:
        config.write('randomness = dict(seed=0)')
    (folder / 'last_checkpoint').write_text('epoch_1.pth')
    monkeypatch.setattr('mmwau.experiment.record.get_device', lambda: 'cpu')
    monkeypatch.setattr(Training, 'command', ['true'])
    trainer = SuiteTrainer(place / 'runs')
    one = trainer._start(training)
    one.process.wait()
    ended = trainer._end(one, 5.0)
    assert (ended.status, ended.error, ended.seconds) == ('finished', '', 0.0)


def test_published_results_of_other_settings_do_not_count(place):
    suite = read_suite(write_suite(place))
    first = suite.trainings[0]
    same = replace(record('old name', 0, mean=1.0), digest=first.digest)
    found = find_records(suite.trainings, place / 'none', [same, record('WAU', 0, mean=2.0)])
    assert list(found) == [first]
    assert (found[first].arm, found[first].values['mean']) == ('baseline', 1.0)
    failed = replace(same, status='failed')
    assert find_records(suite.trainings, place / 'none', [failed]) == {}


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'configs/suites').glob('*.py')), ids=lambda p: p.stem
)
def test_published_suites_name_configs_that_exist(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = read_suite(path)
    assert len(suite.trainings) > 2
    if path.stem.startswith('cifar'):
        data = path.stem.split('_')[0]
        assert all(one.config.stem.endswith(f'_{data}') for one in suite.trainings)
    for arms in suite.settings.values():
        assert arms[0].startswith('baseline')
    # What options change is there, or is an argument that the config leaves at its default.
    defaults = {'indices', 'persistent_workers', 'overlap_interval', 'movement', 'hold', 'rescale'}
    defaults |= {'max_keep_ckpts', 'ratio_schedule', 'axis', 'width'}
    first = {}
    for one in suite.trainings:
        if one.setting == suite.trainings[0].setting and one.seed == suite.trainings[0].seed:
            first.setdefault(tuple(one.options), one)
    for one in first.values():
        config = Config.fromfile(one.config, import_custom_modules=False)
        for name in one.options:
            place = config
            for key in name.split('.'):
                if key in defaults and key not in place:
                    break
                place = place[int(key) if isinstance(place, list) else key]


@pytest.mark.parametrize('name', ['demo', 'cifar10_long', 'optimizers_cpu'])
def test_suites_for_two_cores_validate_ten_times(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for one in read_suite(f'configs/suites/{name}.py').trainings:
        loop = one.cfg.train_cfg
        assert loop.max_epochs // loop.val_interval >= 10


@pytest.mark.parametrize(
    'name', ['finetune_rates', 'finetune', 'finetune_few_rates', 'finetune_few']
)
def test_schedules_of_fine_tuning_end_with_the_training(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    growing = 0
    for one in read_suite(f'configs/suites/{name}.py').trainings:
        cfg, epochs = one.cfg, one.cfg.train_cfg.max_epochs
        assert cfg.param_scheduler[1].T_max == epochs
        schedule = cfg.custom_hooks[0].get('ratio_schedule')
        if schedule is not None:
            assert schedule.end == epochs
            growing += 1
    assert growing


def test_the_suite_in_the_docs_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / 'docs/experiments.md').read_text()
    (tmp_path / 'suite.py').write_text(re.search(r'```python\n(.*?)```', text, re.DOTALL)[1])
    suite = read_suite(tmp_path / 'suite.py')
    assert list(suite.settings) == ['ResNet-20', 'WRN-16-4']
    assert len(suite.trainings) == 18
    wide = suite.trainings[-1].cfg
    assert MODELS.build(wide.model.backbone).conv1.out_channels == 16
    assert wide.optim_wrapper.update_ratio == 0.25
