import importlib.util
import json
import math
import re

import numpy as np
import pytest
import torch
from detection import ROOT
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from PIL import Image
from tiny_classifier import CONFIG, TinyAccuracy, TinyClassifier

from mmwau.analysis.finetune_report import FinetuneReport
from mmwau.analysis.prune_results import Curves, Point
from mmwau.datasets.shapes import make_shapes
from mmwau.reporting.page import Table

pytest.importorskip('torch_pruning')

TOOL = ROOT / 'tools' / 'analysis_tools' / 'prune_curve.py'
ARGUMENTS = ['config.py', 'start.pth', '--fractions', '0.5', '0.75']
TRAINED = [*ARGUMENTS, '--finetune-epochs', '4']


@HOOKS.register_module(force=True)
class DivergingWhereSmall(Hook):
    def after_train(self, runner):
        if runner.model.backbone[0].out_channels < 8:
            runner.model.backbone[0].weight.data.fill_(math.nan)


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('prune_curve', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a config and a checkpoint of it that is right about all images."""
    (tmp_path / 'config.py').write_text(CONFIG)
    model = TinyClassifier().eval()
    with torch.no_grad():
        both = torch.cat([torch.eye(4), 0.5 * torch.eye(4)])
        model.backbone[0].weight.copy_(both[..., None, None])
        scales = torch.tensor([1.0, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])
        model.backbone[3].weight.copy_(scales.diag()[..., None, None])
        model.head.weight.copy_(both.T)
        model.head.bias.zero_()
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'start.pth')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def points(place):
    content = json.loads((place / 'work_dirs/prune_curve/prune_finetune.json').read_text())
    return {
        (point['point']['order'], point['point']['fraction']): point['metrics']
        for point in content['points']
    }


def test_sizes_by_hand_and_what_training_brings_back(place, tool, capsys):
    tool.main([*TRAINED, '--orders', 'l1', 'taylor', '--taylor-images', '8'])
    measured = points(place)
    assert list(measured) == [
        (None, 0.0), ('l1', 0.5), ('l1', 0.75), ('taylor', 0.5), ('taylor', 0.75)
    ]  # fmt: skip
    sizes = [
        [measured['l1' if fraction else None, fraction][f'size/{kind}'] for fraction in (0, 0.5)]
        for kind in ('parameters', 'multiplications', 'bytes')
    ]
    # Of 4 × 8 and 8 × 8 weights, two norms and a head of 8 × 4 with biases; on 2 × 2 places.
    assert sizes[0] == [32 + 16 + 64 + 16 + 36, 16 + 8 + 16 + 8 + 20]
    assert sizes[1] == [4 * (32 + 64) + 32, 4 * (16 + 16) + 16]
    assert sizes[2][0] > sizes[2][1] > 4 * sizes[0][1]
    assert measured[None, 0.0]['accuracy/top1'] == 1
    assert measured[None, 0.0]['before/accuracy/top1'] == 1
    assert 'before/accuracy/top1' not in measured['l1', 0.5]
    # The four filters with the largest norms are enough.
    assert measured['l1', 0.5]['accuracy/top1'] == 1
    said = capsys.readouterr().out
    assert '2 convolutions with 16 filters' in said
    assert re.search(r'l1, .*start +│ +1.000 │ +1.000 │ +50 % │ +1.000 │ 68 \(41.5 %\)', said)
    page = (place / 'work_dirs/prune_curve/prune_finetune.html').read_text()
    assert '4 epochs of training afterwards' in page
    assert page.count('data:image/png') == 1
    with Image.open(place / 'work_dirs/prune_curve/prune_finetune.png') as picture:
        assert picture.width > 500


def test_the_same_each_time_and_goes_on_where_it_was_stopped(place, tool, monkeypatch):
    tool.main(TRAINED)
    expected = points(place)
    compute, calls = TinyAccuracy.compute_metrics, []

    def stop_at_third(self, results):
        calls.append(results)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(self, results)

    monkeypatch.setattr(TinyAccuracy, 'compute_metrics', stop_at_third)
    with pytest.raises(SystemExit, match='the same command goes on'):
        tool.main([*TRAINED, '--overwrite'])
    # The first two are of the whole network, before and after it was trained on.
    assert list(points(place)) == list(expected)[:1]
    tool.main(TRAINED)
    assert len(calls) == 5
    assert points(place) == expected
    # The plain curve has a file of its own.
    tool.main([*ARGUMENTS, '--orders', 'l1'])
    assert points(place) == expected
    with pytest.raises(ValueError, match=r'config.optim_wrapper.optimizer.lr: 0.5 there, 0.1 now'):
        tool.main([*TRAINED, '--cfg-options', 'optim_wrapper.optimizer.lr=0.1'])


def test_the_whole_network_trains_on_as_long(place, tool):
    start = torch.load('start.pth')
    start['state_dict']['head.weight'].zero_()
    torch.save(start, 'start.pth')
    tool.main(TRAINED)
    whole = points(place)[None, 0.0]
    assert whole['before/accuracy/top1'] < 0.5 < whole['accuracy/top1']


def test_what_was_measured_names_arms_and_the_training(place, tool):
    start = torch.load('start.pth')
    names = [f'{name}.pth' for name in 'abcd']
    for number, name in enumerate(names):
        torch.save({**start, 'meta': {'number': number}}, name)
    arms = ['--finetune-epochs', '1', '--arms', 'plain=2', 'WAU=2']
    tool.main(['config.py', *names, '--fractions', '0.5', *arms])
    page = (place / 'work_dirs/prune_curve/prune_finetune.html').read_text()
    measured = page[page.index('What was measured') :]
    assert '<th>accuracy/top1, whole and trained on</th><th>arm, place</th>' in measured
    found = re.findall(r'<td>(.).pth</td><td>\w{12}</td><td>[\d.]+</td><td>([^<]*)', measured)
    assert found == [('a', 'plain, 1'), ('b', 'plain, 2'), ('c', 'WAU, 1'), ('d', 'WAU, 2')]


def test_a_checkpoint_that_finds_nothing_has_a_metric_of_0(place, tool, monkeypatch, capsys):
    compute, calls = TinyAccuracy.compute_metrics, []

    def nothing_at_first(self, results):
        calls.append(results)
        return {} if len(calls) == 1 else compute(self, results)

    monkeypatch.setattr(TinyAccuracy, 'compute_metrics', nothing_at_first)
    tool.main(TRAINED)
    assert re.search(r'l1, .*start +│ +0.000 │ +1.000 │', capsys.readouterr().out)


def test_a_copy_is_no_repetition(place, tool):
    (place / 'copy.pth').write_bytes((place / 'start.pth').read_bytes())
    with pytest.raises(ValueError, match=r'copy.pth is the same file as start.pth'):
        tool.main(['config.py', 'start.pth', 'copy.pth', *TRAINED[2:]])


def test_wau_is_kept_while_training_on(place, tool):
    (place / 'wau.py').write_text(
        "_base_ = './config.py'\n"
        "custom_imports = dict(imports=['mmwau'], allow_failed_imports=False)\n"
        "optim_wrapper = dict(type='WAUOptimWrapper', update_ratio=0.5)\n"
        "custom_hooks = [dict(type='WAUHook', overlap_interval=1)]\n"
    )
    tool.main(['wau.py', *TRAINED[1:], '--fractions', '0.5'])
    assert ('l1', 0.5) in points(place)
    # What hooks draw goes with the training.
    assert not list((place / 'work_dirs/prune_curve').rglob('overlap*.png'))


@pytest.mark.parametrize('found', [{}, {'top1': float('nan')}], ids=['none', 'nan'])
def test_a_size_is_no_metric(place, tool, monkeypatch, found):
    monkeypatch.setattr(TinyAccuracy, 'compute_metrics', lambda self, results: found)
    with pytest.raises(ValueError, match=r'gave no metric|No metric of the whole network is a'):
        tool.main(TRAINED)
    with pytest.raises(ValueError, match=r'--metric size/bytes is unknown|gave no metric'):
        tool.main([*TRAINED, '--overwrite', '--metric', 'size/bytes'])


def test_a_metric_that_does_not_exist_is_reported_before_training(place, tool, monkeypatch):
    def train(runner):
        raise AssertionError

    monkeypatch.setattr('mmengine.runner.Runner.train', train)
    with pytest.raises(ValueError, match=r'--metric top1 is unknown.*exist: accuracy/top1'):
        tool.main([*TRAINED, '--metric', 'top1'])


def test_averaged_weights_are_those_of_the_small_network(place, tool):
    (place / 'ema.py').write_text(
        "_base_ = './config.py'\ncustom_hooks = [dict(type='EMAHook', momentum=0.0002)]\n"
    )
    tool.main(['ema.py', *TRAINED[1:]])
    # They hardly move in these few iterations, and the four filters that are left are enough.
    assert points(place)['l1', 0.5]['accuracy/top1'] == 1


def test_a_training_that_diverges_is_no_measurement(place, tool, capsys):
    with pytest.raises(
        ValueError, match=r'whole network of start.pth diverged .* a lower learning'
    ):
        tool.main([*TRAINED, '--cfg-options', 'optim_wrapper.optimizer.lr=1e30'])
    (place / 'diverging.py').write_text(
        "_base_ = './config.py'\ncustom_hooks = [dict(type='DivergingWhereSmall')]\n"
    )
    tool.main(['diverging.py', *TRAINED[1:], '--overwrite'])
    assert points(place)['l1', 0.5]['accuracy/top1'] is None
    assert points(place)['l1', 0.5]['size/parameters'] == 68
    assert 'nan' in capsys.readouterr().out


def test_a_detector_that_diverges_and_finds_nothing_is_no_measurement(
    place, tool, monkeypatch, capsys
):
    (place / 'diverging.py').write_text(
        "_base_ = './config.py'\ncustom_hooks = [dict(type='DivergingWhereSmall')]\n"
    )
    compute, calls = TinyAccuracy.compute_metrics, []

    def nothing_at_the_end(self, results):
        calls.append(results)
        return compute(self, results) if len(calls) <= 2 else {}

    monkeypatch.setattr(TinyAccuracy, 'compute_metrics', nothing_at_the_end)
    tool.main(['diverging.py', *TRAINED[1:]])
    said = capsys.readouterr().out
    assert re.search(r'is no measurement \(nan\) and left out: \S+start, l1, 50 % of all la', said)
    assert re.search(r'l1, .*start +│ +1.000 │ +1.000 │ +- │', said)


def test_data_without_a_whole_batch_are_reported(place, tool):
    options = ['train_dataloader.batch_size=32', 'train_dataloader.drop_last=True']
    with pytest.raises(ValueError, match='train_dataloader has no whole batch'):
        tool.main([*TRAINED, '--cfg-options', *options])


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--finetune-epochs', '0'], '--finetune-epochs must be at least 1, got 0'),
        (['--finetune-epochs', '1', '--tolerance', '1'], r'--tolerance must be in \[0, 1\), got'),
        (['--tolerance', '0.1'], '--tolerance is for --finetune-epochs, which is not given'),
        (['--finetune-epochs', '1', '--per-layer'], '--per-layer does not train'),
        (['--arms', 'a=1'], '--arms is for --finetune-epochs, which is not given'),
        (['--finetune-epochs', '1', '--arms', 'a=1'], 'two or more different names .* got a=1'),
        (
            ['--finetune-epochs', '1', '--arms', 'a'],
            "an arm is NAME=NUMBER, such as WAU=3, got 'a'",
        ),
        (['--taylor-images', '9'], '--taylor-images is for --orders taylor'),
        (['--orders', 'taylor', '--taylor-images', '0'], 'at least 1, got 0'),
    ],
)
def test_wrong_arguments(tool, capsys, arguments, words):
    with pytest.raises(SystemExit):
        tool.main([*ARGUMENTS, *arguments])
    assert re.search(words, ' '.join(capsys.readouterr().err.split()))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['train_dataloader=None'], 'no train_dataloader, which --finetune-epochs needs'),
        (['train_cfg.by_epoch=False'], 'counts only iterations'),
        (['train_dataloader.dataset.data_root=gone'], 'gone does not exist'),
    ],
)
def test_a_config_that_does_not_train_is_reported(place, tool, options, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        tool.main([*TRAINED, '--cfg-options', *options])
    assert not (place / 'work_dirs').exists()


def test_taylor_without_training_data_is_reported(place, tool):
    options = ['--cfg-options', 'train_dataloader=None', 'train_cfg=None', 'optim_wrapper=None']
    with pytest.raises(ValueError, match='no train_dataloader, which --orders taylor needs'):
        tool.main([*ARGUMENTS, '--orders', 'taylor', *options])
    tool.main([*ARGUMENTS, '--orders', 'l1', *options])


def report(values, tolerance):
    fractions = [0.25, 0.5, 0.75]
    curves = Curves({'a': 'a'}, ['l1'], [0], fractions, {}, [])
    metrics = measured_at(curves, 'a', values)
    metrics[Point('a')]['before/ap'] = 0.9 * values[0]
    return FinetuneReport(curves, metrics, 'ap', 3, tolerance)


def measured_at(curves, label, values):
    return {
        point: {
            'ap': value,
            'size/parameters': 1000 * (1 - point.fraction),
            'size/bytes': 4e6 * (1 - point.fraction),
            'size/multiplications': 2e6 * (1 - point.fraction) ** 2,
        }
        for point, value in zip(curves.points(label), values, strict=True)
    }


@pytest.mark.parametrize(
    ('values', 'tolerance', 'expected'),
    [
        ((0.5, 0.5, 0.46, 0.44), 0.1, (0.5, 0.75)),
        ((0.5, 0.5, 0.45, 0.44), 0.0, (0.25, 0.5)),
        ((0.5, 0.4, 0.5, 0.5), 0.1, (0.0, 0.25)),
        ((0.5, 0.5, 0.5, 0.6), 0.0, (0.75, None)),
        # What is lost is the tolerance, however it is rounded.
        ((0.8, 0.8, 0.72, 0.71), 0.1, (0.5, 0.75)),
        ((0.5, 0.5, 0.45, 0.44), 0.1, (0.5, 0.75)),
        ((0.5, float('nan'), 0.5, 0.1), 0.0, (None, None)),
        ((0.0, 0.0, 0.0, 0.0), 0.1, (None, None)),
    ],
)
def test_where_the_metric_is_lost(values, tolerance, expected):
    assert report(values, tolerance).limits('a', 'l1') == expected


def test_tables():
    measured = report((0.5, 0.5, 0.46, 0.44), 0.1)
    assert measured.limit_table().rows == [
        ['l1, a', '0.450', '0.500', '50 %', '0.460', '500 (50 %)', '2 MB (50 %)', '0.5 M (25 %)',
         '75 %, 25 % of parameters']
    ]  # fmt: skip
    assert measured.size_table().rows[2] == [
        'l1, a', '75 %', '0.440', '0.880', '250 (25 %)', '1 MB (25 %)', '0.125 M (6.25 %)'
    ]  # fmt: skip
    whole = report((0.5, 0.3, 0.3, 0.3), 0.1).limit_table().rows[0]
    assert whole[1:6] == ['0.450', '0.500', '0 %', '0.500', '1,000 (100 %)']
    assert report((0.5,) * 4, 0.0).limit_table().rows[0][-1] == '> 75 %'
    assert report((0.0,) * 4, 0.0).limit_table().rows[0][3:] == ['-'] * 6
    measured.draw_sizes().canvas.draw()


def test_arms_are_compared_in_pairs():
    arms = {'baseline': ['a', 'b'], 'WAU': ['c', 'd']}
    values = {
        'a': (0.5, 0.5, 0.4, 0.1),
        'b': (1.0, 0.9, 0.6, 0.3),
        'c': (0.5, 0.5, 0.3, 0.1),
        'd': (1.0, 1.0, 0.6, math.nan),
    }
    curves = Curves({label: label for label in values}, ['l1'], [0], [0.25, 0.5, 0.75], {}, [])
    metrics = {}
    for label, each in values.items():
        metrics |= measured_at(curves, label, each)
    shown = FinetuneReport(curves, metrics, 'ap', 3, 0.1, arms)
    (table,) = shown.arm_tables()
    assert table.columns == ['order', 'filters removed', 'baseline', 'WAU', 'Gap, WAU']
    # Relative to the whole one: 1 and 0.9, 1 and 1; 0.8 and 0.6, 0.6 and 0.6; 0.2 and 0.3, 0.2.
    # Half the width of an interval of two pairs is 12.706 times half of their distance.
    rows = [[cell.replace('\u00a0', ' ') for cell in row] for row in table.rows]
    assert rows == [
        ['l1', '25 %', '0.950 ± 0.071', '1.000 ± 0.000', '+0.050 (−0.585, +0.685)'],
        ['l1', '50 %', '0.700 ± 0.141', '0.600 ± 0.000', '−0.100 (−1.371, +1.171)'],
        ['l1', '75 %', '0.250 ± 0.071', '0.200 [1 of 2]', '+0.000 [1 of 2]'],
        ['l1', 'most, metric kept', '0.250 ± 0.000', '0.250 ± 0.000', '+0.000 (+0.000, +0.000)'],
    ]
    figure = shown.draw_sizes()
    assert [line.get_label() for line in figure.axes[0].lines[1:]] == ['baseline', 'WAU']
    assert report((0.5,) * 4, 0.1).arm_tables() == []


@pytest.mark.parametrize('missing', [0, 1, 2])
def test_a_band_reaches_over_what_is_measured(missing):
    labels = ['a', 'b', 'c']
    curves = Curves({label: label for label in labels}, ['random'], [0, 1], [0.5], {}, [])
    metrics = {}
    for place, (label, value) in enumerate(zip(labels, (0.3, 0.5, 0.1), strict=True)):
        values = [1.0, *[math.nan if place == missing else value] * 2]
        metrics |= measured_at(curves, label, values)
    shown = FinetuneReport(curves, metrics, 'ap', 3, 0.1, {'arm': labels})
    axes = shown.draw_sizes().axes[0]
    band = axes.collections[0].get_paths()[0].vertices
    left = [value for place, value in enumerate((0.3, 0.5, 0.1)) if place != missing]
    at_half = band[np.isclose(band[:, 0], 50), 1]
    assert [at_half.min(), at_half.max()] == [min(left), max(left)]
    # The band is not one of seeds.
    assert axes.get_title() == 'random, mean of 2 seeds'
    page = str(shown.sections(Table('', [], []), {}))
    assert 'from the lowest to the highest' in page
    assert 'over seeds, ±' not in page


@pytest.mark.slow
def test_detector_whose_heads_read_fewer_channels(tmp_path, tool, monkeypatch, capsys):
    make_shapes(tmp_path / 'data/demo', {'train': 4, 'val': 2}, image_size=96)
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / 'configs' / 'faster_rcnn_r18_wau_demo.py')
    torch.manual_seed(0)
    model = MODELS.build(dict(Config.fromfile(config).model, _scope_='mmdet'))
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, 'start.pth')
    options = [
        'model.test_cfg.rcnn.score_thr=0.0',
        'test_dataloader.dataset.pipeline.2.scale=(96,96)',
        *(f'{name}_dataloader.num_workers=0' for name in ('train', 'test')),
        *(f'{name}_dataloader.persistent_workers=False' for name in ('train', 'test')),
    ]
    asked = '--finetune-epochs 1 --orders taylor --taylor-images 2 --fractions 0.5'
    tool.main([config, 'start.pth', *asked.split(), '--cfg-options', *options])
    whole, half = points(tmp_path).values()
    assert 'coco/bbox_mAP' in half
    assert '28 convolutions with 2912 filters' in capsys.readouterr().out
    # Half of two dimensions of the backbone and the neck, and half of what the heads read.
    sizes = [param.numel() for name, param in model.named_parameters() if 'backbone' in name]
    assert whole['size/parameters'] == sum(param.numel() for param in model.parameters())
    assert half['size/parameters'] < whole['size/parameters'] - 0.7 * sum(sizes)
    assert half['size/multiplications'] < 0.5 * whole['size/multiplications']
