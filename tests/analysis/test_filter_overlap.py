import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch
from detection import ROOT, run_python
from PIL import Image
from torch import nn

from mmwau.analysis.filters import find_filters
from mmwau.analysis.overlap_pictures import draw_measures
from mmwau.analysis.overlap_report import Measured, comparison_table, measure_filters
from mmwau.overlap import expected_overlap, filter_overlap, largest_cosine
from mmwau.reporting.labels import short_labels

SCRIPT = ROOT / 'tools' / 'analysis_tools' / 'filter_overlap.py'
# Brackets in a path are no markup.
OUT = 'out [v1]'
CONFIG = """
default_scope = 'mmengine'
custom_imports = dict(imports=['tiny_network'], allow_failed_imports=False)
model = dict(type='TinyNetwork')
test_dataloader = dict(
    dataset=dict(type='TinyImages'),
    batch_size=2,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
"""
NETWORK = """
import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn

@MODELS.register_module()
class TinyNetwork(BaseModel):
    def __init__(self):
        super().__init__()
        second = nn.Conv2d(24, 32, 3, groups=2)
        self.backbone = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), second)
        self.head = nn.Conv2d(32, 2, 1)

    def extract_feat(self, inputs):
        return self.backbone(inputs)

    def forward(self, inputs, mode='tensor'):
        return self.head(self.extract_feat(inputs))

@DATASETS.register_module()
class TinyImages(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {'inputs': torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(index))}
"""


def network():
    backbone = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3, groups=2))
    return nn.ModuleDict({'backbone': backbone, 'head': nn.Conv2d(32, 2, 1)})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'tiny.py').write_text(CONFIG)
    (tmp_path / 'tiny_network.py').write_text(NETWORK)
    torch.manual_seed(0)
    for name in ('baseline', 'wau'):
        (tmp_path / name).mkdir()
        torch.save({'state_dict': network().state_dict()}, tmp_path / name / 'epoch_1.pth')
    weights = network().state_dict()
    torch.save({**weights, 'head.weight': torch.zeros(3, 32, 1, 1)}, tmp_path / 'wide.pth')
    backbone = {name: value for name, value in weights.items() if 'head' not in name}
    torch.save(backbone, tmp_path / 'headless.pth')
    return tmp_path


def overlap(folder, *arguments):
    path = f'{folder}:{ROOT}'
    return run_python(SCRIPT, *arguments, '--out', OUT, cwd=folder, PYTHONPATH=path)


CHECKPOINTS = ('baseline/epoch_1.pth', 'wau/epoch_1.pth')


@pytest.mark.slow
def test_checkpoints_are_measured_without_a_config(folder):
    done = overlap(folder, *CHECKPOINTS)
    assert done.returncode == 0, done.stdout[-3000:]
    content = json.loads((folder / OUT / 'filter_overlap.json').read_text())
    assert list(content['checkpoints']) == ['baseline', 'wau']
    for name, measured in content['checkpoints'].items():
        weights = torch.load(folder / name / 'epoch_1.pth')['state_dict']
        assert list(measured['layers']) == ['backbone.0', 'head']
        assert list(measured['left_out']) == ['backbone.2']
        layer, weight = measured['layers']['backbone.0'], weights['backbone.0.weight']
        each = filter_overlap(weight)
        assert layer['filters']['overlap'] == pytest.approx(each.tolist(), abs=1e-6)
        assert layer['filters']['largest_cosine'] == pytest.approx(
            largest_cosine(weight).tolist(), abs=1e-6
        )
        assert layer['measured']['overlap'] == pytest.approx(each.mean().item())
        assert layer['at_random']['overlap'] == pytest.approx(expected_overlap(24, 27))
        ratio = each.mean().item() / expected_overlap(24, 27)
        assert layer['overlap_ratio'] == pytest.approx(ratio)
        layers = [layer['measured']['overlap'] for layer in measured['layers'].values()]
        network_overlap = measured['network']['measured']['overlap']
        assert network_overlap == pytest.approx(sum(layers) / 2)
        assert f'{each.mean().item():.4f} ({ratio:.2f})' in done.stdout
    assert 'may be grouped' in ' '.join(done.stdout.split())
    assert f'Pictures, page and JSON file: {OUT}/\n' in done.stdout
    page = (folder / OUT / 'filter_overlap.html').read_text()
    assert page.count('data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    for name in ('measures', 'heat_maps'):
        with Image.open(folder / OUT / f'{name}.png') as picture:
            assert len(np.unique(np.asarray(picture.convert('RGB')).reshape(-1, 3), axis=0)) > 50


def test_random_filters_of_one_shape_are_not_shown_for_another():
    def measured(**shapes):
        filters, _ = find_filters({f'{k}.weight': torch.randn(v) for k, v in shapes.items()})
        both = {name: measure_filters(each, 0.9) for name, each in filters.items()}
        layers, random = ({name: pair[i] for name, pair in both.items()} for i in (0, 1))
        return Measured('', filters, layers, random, {})

    narrow = measured(stem=(16, 3, 3, 3), last=(8, 16, 1, 1))
    wide = measured(stem=(16, 3, 3, 3), last=(32, 16, 1, 1))
    checkpoints = {'narrow': narrow, 'wide': wide}
    stem, *last = (expected_overlap(*shape) for shape in ((16, 27), (8, 16), (32, 16)))
    rows = {row[0]: row[1] for row in comparison_table(checkpoints).rows}
    assert rows == {'stem': f'{stem:.4f}', 'last': f'{last[0]:.4f}, {last[1]:.4f}'}
    marks = draw_measures(checkpoints).axes[0].collections[-1]
    assert marks.get_label() == 'random filters of that shape'
    np.testing.assert_allclose(marks.get_offsets().filled(np.nan), [[stem, 0], [np.nan, np.nan]])


@pytest.mark.slow
def test_with_a_config_groups_are_known_and_outputs_compared(folder):
    weights = network().state_dict()
    for name in ('backbone.2.weight', 'backbone.2.bias'):
        weights[name].zero_()
    torch.save(weights, folder / 'dead.pth')
    done = overlap(
        folder, *CHECKPOINTS, 'dead.pth', '--config', 'tiny.py', '--images', '5', '--json'
    )
    assert done.returncode == 0, done.stdout[-3000:]
    # What libraries and the progress print goes to the error output, here joined with it.
    content = json.loads((folder / OUT / 'filter_overlap.json').read_text())
    assert json.dumps(content, indent=1) in done.stdout
    layer = content['checkpoints']['wau/epoch_1']['layers']['backbone.2']
    assert layer['groups'] == 2
    assert layer['at_random']['overlap'] == pytest.approx(expected_overlap(16, 12 * 9))
    features = content['features']
    assert features['images'] == 6  # whole batches
    assert list(features['overlap']['wau/epoch_1']) == ['backbone.0', 'backbone.2']
    assert features['alike']['baseline/epoch_1']['backbone.2'] == pytest.approx(1)
    assert 0 < features['alike']['wau/epoch_1']['backbone.2'] < 1
    assert features['alike']['dead']['backbone.2'] is None  # CKA of a constant has no value
    assert features['matched']['baseline/epoch_1']['backbone.2'] == pytest.approx(1)
    assert 0 < features['matched']['wau/epoch_1']['backbone.2'] < 1
    assert features['matched']['dead']['backbone.2'] == 0
    assert (folder / OUT / 'features.png').is_file()


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (['missing.pth'], FileNotFoundError, 'The checkpoint missing.pth does not exist'),
        (['--layers', 'neck'], ValueError, 'no convolution to measure below --layers'),
        (['--heat-maps', 'neck'], ValueError, 'neck is none of the measured layers: backbone.0'),
        (['--config', 'no.py'], FileNotFoundError, 'The config no.py does not exist'),
        (['baseline/epoch_1.pth'], ValueError, 'A path is given more than once'),
        (['wide.pth', '--config', 'tiny.py'], ValueError, 'to the network of --config. Error(s)'),
        (['headless.pth', '--config', 'tiny.py'], ValueError, 'it lacks head.weight, head.bias'),
    ],
)
def test_wrong_input_is_reported_and_leaves_nothing(
    folder, monkeypatch, capsys, arguments, error, message
):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    command = [str(SCRIPT), 'baseline/epoch_1.pth', *arguments, '--out', 'out']
    monkeypatch.setattr(sys, 'argv', command)
    with pytest.raises(SystemExit, match='1'):
        runpy.run_path(str(SCRIPT), run_name='__main__')
    said = capsys.readouterr().err
    assert said.startswith(f'{error.__name__}: ')
    assert message in said
    assert not (folder / 'out').exists()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--duplicate-cosine', '0'], '--duplicate-cosine must be in (0, 1], got 0.0'),
        (['--twin-cosine', '0'], '--duplicate-cosine must be in (0, 1], got 0.0'),  # of 0.1
        (['--config', 'tiny.py', '--images', '-1'], '--images must be 0 or more, got -1'),
    ],
)
def test_wrong_options_are_usage_errors(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(sys, 'argv', [str(SCRIPT), 'epoch_1.pth', *arguments])
    with pytest.raises(SystemExit, match='2'):
        runpy.run_path(str(SCRIPT), run_name='__main__')
    said = ' '.join(capsys.readouterr().err.split())
    assert words in said
    assert '--duplicate-cosine' in said
    assert 'twin' not in said


@pytest.mark.parametrize(
    ('paths', 'labels'),
    [
        (['runs/baseline/epoch_1.pth', 'runs/wau/epoch_1.pth'], ['baseline', 'wau']),
        (['runs/wau/epoch_1.pth', 'runs/wau/epoch_2.pth'], ['epoch_1', 'epoch_2']),
        (['runs/base/epoch_1.pth', 'runs/wau/epoch_2.pth'], ['base/epoch_1', 'wau/epoch_2']),
        (['runs/wau/epoch_1.pth'], ['wau/epoch_1']),
        (['runs/wau', 'runs/wau/epoch_1.pth'], ['wau', 'epoch_1']),
        (['w/e.pth', 'w/e.safetensors'], ['e.pth', 'e.safetensors']),
        (['wau/wau.pth', 'wau.pth'], ['wau/wau', 'wau']),
        (['wau', 'wau/wau.pth', 'wau/baseline.pth'], ['wau', 'wau/wau', 'wau/baseline']),
    ],
)
def test_labels_are_what_the_paths_differ_in(tmp_path, paths, labels):
    for path in paths:
        place = tmp_path / path
        if place.suffix:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        else:
            place.mkdir(parents=True)
    assert short_labels([tmp_path / path for path in paths]) == labels
