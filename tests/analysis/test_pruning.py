import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from detection import ROOT, run_python
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from PIL import Image
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import Dataset

from mmwau.analysis.prune_report import PruneReport, fraction_kept
from mmwau.analysis.prune_results import Curves, Point, Results
from mmwau.analysis.pruning import (
    Removable,
    average_zeros,
    find_removable,
    num_removed,
    removal_order,
    removed,
)
from mmwau.datasets.shapes import make_shapes
from mmwau.reporting.page import png
from mmwau.reporting.plots import COLOURS
from mmwau.runs.metrics import choose_metric, is_measured, is_number

TOOL = ROOT / 'tools' / 'analysis_tools' / 'prune_curve.py'
KINDS = {
    'batch norm': lambda: (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)),
    'batch norm without weight': lambda: (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
    'group norm': lambda: (nn.Conv2d(4, 6, 3), nn.GroupNorm(3, 6)),
    'instance norm': lambda: (nn.Conv2d(4, 6, 3), nn.InstanceNorm2d(6)),
    'no norm': lambda: (nn.Conv2d(4, 6, 3),),
    'grouped': lambda: (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
    'depthwise': lambda: (nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)),
    'transposed': lambda: (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)),
    'frozen': lambda: (nn.Conv2d(4, 6, 3).requires_grad_(False), nn.BatchNorm2d(6)),
}


def randomised(*modules):
    """The modules in a row, with statistics and biases that are not 0 and 1."""
    torch.manual_seed(1)
    model = nn.Sequential(*modules).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return model


def images(channels=4):
    return torch.randn(3, channels, 5, 5, generator=torch.Generator().manual_seed(2))


def layers_of(model, targets=('',)):
    return find_removable(model, targets, lambda: model(images()))


def bits(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize('kind', KINDS)
class TestRemoved:
    def test_channel_is_zero_behind_the_norm_and_others_are_not(self, kind):
        model = randomised(*KINDS[kind]())
        layers, left_out = layers_of(model)
        assert list(layers) == ['0']
        assert not left_out
        with removed(layers, {'0': [1, 3]}):
            output = model(images())
        assert output[:, [1, 3]].eq(0).all()
        assert output[:, [0, 2]].abs().amax(dim=(0, 2, 3)).gt(0).all()

    def test_filters_that_stay_keep_their_bits_and_all_come_back(self, kind):
        model = randomised(*KINDS[kind]())
        model[0].weight.data[0] *= -0.0  # zeros with a sign come back too
        before, output = bits(model), model(images())
        layers, _ = layers_of(model)
        with removed(layers, {'0': [1, 3]}):
            assert bits(model) != before
            if kind != 'group norm':  # its groups share their mean and variance
                kept = [channel for channel in range(output.shape[1]) if channel not in (1, 3)]
                assert torch.equal(model(images())[:, kept], output[:, kept])
        assert bits(model) == before
        with pytest.raises(ZeroDivisionError), removed(layers, {'0': [2]}):
            raise ZeroDivisionError  # an evaluation that fails
        assert bits(model) == before
        assert torch.equal(model(images()), output)


class Awkward(nn.Module):
    """Convolutions whose filters can't be removed, beside some that can."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(4, 4, 1)
        self.shared_too = nn.Conv2d(4, 4, 1)
        self.shared_too.weight = self.shared.weight
        self.computed = parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.more = nn.Conv2d(4, 4, 1)
        self.more.scale = nn.Parameter(torch.ones(4))
        self.transposed = nn.ConvTranspose2d(4, 4, 1, groups=2)
        self.unused = nn.Conv2d(4, 4, 1)
        self.bare = nn.Conv2d(4, 4, 1)
        self.bare_norm = nn.GroupNorm(2, 4, affine=False)
        self.far = nn.Conv2d(4, 4, 1)  # something stands between it and the norm
        self.near = nn.Conv2d(4, 4, 1)  # norms of its own at both of its two places
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))

    def forward(self, x):
        x = self.transposed(self.more(self.computed(self.shared_too(self.shared(x)))))
        x = self.norms[0](self.far(self.bare_norm(self.bare(x))).relu())
        return self.norms[2](self.near(self.norms[1](self.near(x))))


class TestFindRemovable:
    def test_names_what_is_left_out_and_why(self):
        layers, left_out = layers_of(Awkward())
        assert list(layers) == ['far', 'near']
        assert {name: reason.split()[0] for name, reason in left_out.items()} == {
            'shared': 'shares',
            'shared_too': 'shares',
            'computed': 'its',
            'more': 'its',
            'transposed': 'grouped',
            'unused': 'takes',
            'bare': 'the',
        }
        assert 'computed from other parameters' in left_out['computed']
        assert 'besides weight and bias' in left_out['more']

    def test_norm_is_the_one_that_takes_the_output_itself(self):
        model = Awkward()
        layers, _ = layers_of(model)
        assert layers['far'].norms == ()
        assert layers['near'].norms == (model.norms[1], model.norms[2])

    def test_norm_behind_what_changed_in_place_takes_another_thing(self):
        class Residual(nn.Sequential):
            def forward(self, x):
                output = self[0](x)
                output += x
                return self[1](output)

        layers, _ = layers_of(Residual(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
        assert layers['0'].norms == ()

    def test_norm_of_a_tensor_in_the_place_of_an_output_that_is_gone_is_another_ones(self):
        class Forgetful(nn.Sequential):
            def forward(self, x):
                for _ in range(20):
                    self[0](x)
                    twice = x * 2
                    self[1](twice)
                    del twice

        layers, _ = layers_of(Forgetful(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
        assert layers['0'].norms == ()

    def test_no_layer_is_an_error_with_reasons(self):
        with pytest.raises(ValueError, match=r'can be removed \(unused: takes no part'):
            layers_of(Awkward(), ['unused'])
        with pytest.raises(ValueError, match=r"'elsewhere'.*Modules that exist.*shared"):
            layers_of(Awkward(), ['elsewhere'])


def test_average_zeros_agree_with_a_loop():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1), nn.ReLU()
    ).eval()
    model[1].bias.data.copy_(torch.tensor([0.3, 0.0, -0.5]))
    layers, _ = layers_of(model)
    batches = [images(), images()[:1] * 2]
    zeros = average_zeros(layers, lambda: [model(batch) for batch in batches])
    for name, last in (('0', 2), ('3', 4)):
        behind = [model[: last + 1](batch).detach().numpy() for batch in batches]
        for channel in range(zeros[name].numel()):
            values = np.concatenate([part[:, channel].ravel() for part in behind])
            assert zeros[name][channel].item() == np.mean([value == 0 for value in values])
    assert len(set(zeros['0'].tolist())) == 3


def removable(convolution, name='backbone.conv'):
    return Removable(name, convolution, ())


class TestOrder:
    # L1 norms 3, 1, 3, 2; the third is the first turned around.
    WEIGHT = torch.tensor([[3.0, 0], [0, -1], [-3, 0], [1, 1]]).reshape(4, 2, 1, 1)

    def layer(self, transposed=False):
        convolution = (nn.ConvTranspose2d if transposed else nn.Conv2d)(2, 4, 1)
        convolution.weight.data = self.WEIGHT.transpose(0, 1) if transposed else self.WEIGHT
        return removable(convolution)

    @pytest.mark.parametrize('transposed', [False, True])
    def test_by_hand_with_ties_by_index(self, transposed):
        layer = self.layer(transposed)
        assert removal_order(layer, 'l1') == [1, 3, 0, 2]
        # Sums of |cosines|: 1 + r, r, 1 + r, 3r with r = 0.707.
        assert removal_order(layer, 'overlap') == [3, 0, 2, 1]
        zeros = torch.tensor([0.5, 0.9, 0.5, 1.0])
        assert removal_order(layer, 'apoz', measured=zeros) == [3, 1, 0, 2]
        assert removal_order(layer, 'taylor', measured=zeros) == [0, 2, 1, 3]

    def test_random_is_a_function_of_seed_and_layer_that_leaves_the_global_state(self):
        convolution = nn.Conv2d(1, 200, 1)
        before = torch.random.get_rng_state()
        first = removal_order(removable(convolution), 'random', 0)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert sorted(first) == list(range(200))
        assert first == removal_order(removable(nn.Conv2d(1, 200, 1)), 'random', 0)
        assert first != removal_order(removable(convolution), 'random', 1)
        assert first != removal_order(removable(convolution, 'neck.conv'), 'random', 0)

    def test_unknown_order(self):
        with pytest.raises(
            ValueError, match=r"order.*l1.*overlap.*apoz.*taylor.*random.*'largest'"
        ):
            removal_order(self.layer(), 'largest')

    @pytest.mark.parametrize(
        ('filters', 'fraction', 'expected'),
        [(10, 0.3, 3), (10, 0.0, 0), (64, 0.1, 6), (4, 0.99, 3), (1, 0.9, 0), (3, 0.5, 2)],
    )
    def test_one_filter_always_stays(self, filters, fraction, expected):
        assert num_removed(filters, fraction) == expected


# Two checkpoints: the metric of one falls slowly, that of the other at once.
CURVES = Curves(
    {'slow': 'a', 'fast': 'b'}, ['l1', 'random'], [0, 1], [0.2, 0.4], {'backbone.conv': 8}, [0.5]
)
VALUES = {'slow': (0.8, 0.8, 0.6), 'fast': (0.5, 0.25, 0.0)}


class TestReport:
    def report(self):
        metrics = {}
        for label, (whole, *values) in VALUES.items():
            for point in CURVES.points(label):
                value = dict(zip((0, 0.2, 0.4, 0.5), (whole, *values, whole / 2), strict=True))
                moved = value[point.fraction] + (0.1 if point.seed == 1 else 0)
                metrics[point] = {'other': 9.0, 'ap': moved}
        fast = Point('b', 'l1', None, None, 0.4)
        metrics[fast] = {}  # a detector that found nothing
        return PruneReport(CURVES, metrics, 'ap')

    def test_network_table(self):
        table = self.report().network_table()
        assert table.columns[:4] == ['order, checkpoint', '0 %', '20 %', '40 %']
        assert table.rows == [
            ['l1, slow', '0.800', '0.800', '0.600', '28.0 %', '0.875'],
            ['l1, fast', '0.500', '0.250', '0.000', '4.0 %', '0.250'],
            ['random, slow', '0.800', '0.850', '0.650', '33.0 %', '0.938'],
            ['  ± over 2 seeds', '', '0.071', '0.071', '', '0.088'],
            ['random, fast', '0.500', '0.300', '0.050', '5.0 %', '0.350'],
            ['  ± over 2 seeds', '', '0.071', '0.071', '', '0.141'],
        ]

    def test_network_table_has_fewer_fractions_where_there_is_no_room(self):
        table = self.report().network_table(most=1)
        assert table.columns[1:3] == ['0 %', '40 %']
        assert table.rows[0] == ['l1, slow', '0.800', '0.600', '28.0 %', '0.875']

    def test_layer_table(self):
        table = self.report().layer_table(0.5, CURVES.orders)
        assert table.columns == [
            'layer',
            'filters',
            'l1, slow',
            'l1, fast',
            'random, slow',
            'random, fast',
        ]
        assert table.rows == [['backbone.conv', '8', '0.500', '0.500', '0.562', '0.600']]

    def test_a_network_that_detects_nothing_whole_has_no_relation_to_it(self):
        report = self.report()
        report.metrics[Point('b')]['ap'] = 0.0
        assert report.network_table().rows[1][-2:] == ['-', '-']
        assert report.layer_table(0.5, CURVES.orders).rows[0][3] == '-'
        report.draw_layers(0.5)

    def test_what_is_no_measurement_is_left_out_and_named(self):
        report = self.report()
        # A seed of 'slow' at 20 %, one of its layer, and all of 'fast'.
        report.metrics[Point('a', 'random', 1, None, 0.2)]['ap'] = math.nan
        report.metrics[Point('a', 'l1', None, 'backbone.conv', 0.5)]['ap'] = None  # as in JSON
        report.metrics[Point('b')]['ap'] = -1.0
        rows = {row[0]: row[1:] for row in report.network_table().rows[:4]}
        assert rows['l1, slow'] == ['0.800', '0.800', '0.600', '28.0 %', '0.875']
        assert rows['l1, fast'] == ['-', '0.250', '0.000', '-', '-']
        # The mean of the seeds that there are; the curve of seed 1 has a hole.
        assert rows['random, slow'] == ['0.800', '0.800', '0.650', '30.7 %', '0.875']
        assert rows['  ± over 2 seeds'] == ['', '-', '0.071', '', '-']
        assert report.layer_table(0.5, CURVES.orders).rows[0][2:] == ['-', '-', '0.562', '-']
        assert report.warnings() == [
            'ap is no measurement (nan) and left out: slow, random (seed 1), 20 % of all layers, '
            'slow, l1, 50 % of backbone.conv',
            "ap of the whole network fast is no measurement (-1, COCO's mark for nothing to "
            'count): it has no curve',
        ]
        sections = {section.heading: section.parts for section in report.sections(None, {})}
        assert sections['Warnings'] == report.warnings()
        report.draw_network().canvas.draw()
        report.draw_layers(0.5).canvas.draw()
        assert self.report().warnings() == []

    def test_a_fraction_without_a_measurement_leaves_the_summary_open(self):
        report = self.report()
        report.metrics[Point('a', 'l1', None, None, 0.2)]['ap'] = math.nan
        report.metrics[Point('b', 'l1', None, None, 0.4)]['ap'] = math.nan
        assert report.network_table().rows[0] == ['l1, slow', '0.800', '-', '0.600', '-', '-']
        # That one had fallen before.
        assert report.network_table().rows[1] == ['l1, fast', '0.500', '0.250', '-', '4.0 %', '-']

    @pytest.mark.parametrize(
        'draw', [PruneReport.draw_network, lambda report: report.draw_layers(0.5)]
    )
    def test_pictures_have_each_checkpoint_in_each_panel(self, draw, tmp_path):
        (tmp_path / 'picture.png').write_bytes(png(draw(self.report())))
        with Image.open(tmp_path / 'picture.png') as picture:
            pixels = np.asarray(picture.convert('RGB')).astype(int)
        for colour in COLOURS[:2]:
            wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
            near = np.abs(pixels - wanted).max(axis=2) < 8
            for half in np.array_split(near, 2, axis=1):
                assert half.sum() > 25

    @pytest.mark.parametrize(
        ('values', 'expected'),
        [
            ((1.0, 0.95, 0.85), 0.3),
            ((1.0, 0.9, 0.0), 0.2),
            ((1.0, 1.1, 0.91), None),
            ((1.0, 0.0, 1.0), 0.02),
            ((50.0, 50.0, 40.0), 0.3),
            ((1.0, 0.5, math.nan), 0.04),
        ],
    )
    def test_fraction_at_which_it_has_fallen(self, values, expected):
        assert fraction_kept((0, 0.2, 0.4), values) == (expected and pytest.approx(expected))

    @pytest.mark.parametrize(
        'values', [(1.0, math.nan, 0.5), (1.0, 0.95, math.nan), (math.nan, 1.0, 0.0), (0.0, 0, 0)]
    )
    def test_nobody_knows_where_it_has_fallen_if_a_measurement_is_missing(self, values):
        assert math.isnan(fraction_kept((0, 0.2, 0.4), values))

    def test_metric(self):
        assert choose_metric({'coco/bbox_mAP_50': 1, 'coco/bbox_mAP': 1}) == 'coco/bbox_mAP'
        assert choose_metric({'f1': 1, 'loss': 1}) == 'f1'
        assert choose_metric({'f1': 1, 'loss': 1}, 'loss') == 'loss'
        with pytest.raises(ValueError, match=r'--metric ap is unknown.*exist: f1, loss'):
            choose_metric({'f1': 1, 'loss': 1}, 'ap')
        with pytest.raises(ValueError, match='gave no metric'):
            choose_metric({})
        some = {'coco/bbox_mAP': -1.0, 'coco/bbox_mAP_s': 0.5, 'coco/cat_precision': math.nan}
        assert choose_metric(some) == 'coco/bbox_mAP_s'
        words = r"bbox_mAP is no measurement: it is -1, COCO's mark .* exist: coco/bbox_mAP_s$"
        with pytest.raises(ValueError, match=words):
            choose_metric(some, 'coco/bbox_mAP')
        with pytest.raises(ValueError, match=r'precision is no measurement: it is nan\. Metrics'):
            choose_metric(some, 'coco/cat_precision')
        with pytest.raises(ValueError, match=r'is a measurement: a \(nan\), b \(-1, COCO'):
            choose_metric({'a': math.nan, 'b': -1.0})

    @pytest.mark.parametrize(
        ('value', 'expected'),
        [
            (0.5, True),
            (0, True),
            (-0.5, True),
            (-1, False),
            (-1.0, False),
            (math.nan, False),
            (math.inf, False),
            (None, False),
            ('0.5', False),
            (np.float32(0.5), True),
        ],
    )
    def test_what_is_a_measurement(self, value, expected):
        assert is_measured(value) is expected
        # Elsewhere than in a metric -1 is a number as any.
        assert is_number(value) is (expected or value == -1)


IDENTITY = dict(config=dict(model=dict(depth=18)), checkpoints=dict(a='one.pth'))


class TestResults:
    def test_come_back_and_take_another_checkpoint(self, tmp_path):
        path = tmp_path / 'prune_curve.json'
        point = Point('a', 'random', 3, 'backbone.conv', 0.1)
        Results(path, IDENTITY).add(point, {'ap': 0.1 + 0.2})
        more = {**IDENTITY, 'checkpoints': dict(a='one.pth', b='two.pth')}
        assert Results(path, more).metrics == {point: {'ap': 0.1 + 0.2}}
        assert Results(path, IDENTITY, overwrite=True).metrics == {}

    @pytest.mark.parametrize(
        ('change', 'words'),
        [
            (dict(config=dict(model=dict(depth=50))), 'config.model.depth: 18 there, 50 now'),
            (dict(checkpoints=dict(b='one.pth')), 'another file: one.pth'),
        ],
    )
    def test_of_something_else_are_refused(self, tmp_path, change, words):
        path = tmp_path / 'prune_curve.json'
        Results(path, IDENTITY).add(Point('a'), {'ap': 0.5})
        with pytest.raises(ValueError, match=words) as error:
            Results(path, {**IDENTITY, **change})
        assert '--work-dir' in str(error.value)
        assert '--overwrite' in str(error.value)

    def test_that_can_not_be_read(self, tmp_path):
        path = tmp_path / 'prune_curve.json'
        path.write_text('{"identity": {}')
        with pytest.raises(ValueError, match=r'can not be read.*--overwrite'):
            Results(path, IDENTITY)


@MODELS.register_module()
class ChannelClassifier(BaseModel):
    """Says which channel of its input is the largest one, through two convolutions."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.neck = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, inputs, label, mode='tensor'):
        scores = self.neck(self.backbone(inputs)).mean(dim=(2, 3))
        return [dict(right=right) for right in (scores.argmax(dim=1) == label).tolist()]


@DATASETS.register_module()
class Channels(Dataset):
    """Images of which one channel is 1 and the others are 0, as often each."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        inputs = torch.zeros(4, 2, 2)
        inputs[index % 4] = 1
        return {'inputs': inputs, 'label': index % 4}


@METRICS.register_module()
class Right(BaseMetric):
    default_prefix = 'accuracy'
    evaluations = 0  # in all, and the one at which the user loses patience
    stop_at = None

    def process(self, data_batch, data_samples):
        self.results += [sample['right'] for sample in data_samples]

    def compute_metrics(self, results):
        Right.evaluations += 1
        if Right.evaluations == Right.stop_at:
            raise KeyboardInterrupt
        print('noise of the evaluation')
        top1 = sum(results) / len(results)
        top5 = top1 if top1 > 0.5 else math.nan
        return {
            'of': float(len(results)),
            'top1': top1,
            'large': -1.0,
            'class': math.nan,
            'top5': top5,
        }


CLASSIFIER = """
model = dict(type='ChannelClassifier')
test_dataloader = dict(
    dataset=dict(type='Channels'), batch_size=3, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'))
test_evaluator = dict(type='Right')
test_cfg = dict()
"""


def save_classifier(path, scales):
    """Filter f of the backbone sees only channel f, with this weight."""
    model = ChannelClassifier()
    weights = torch.diag(torch.tensor(scales)).reshape(4, 4, 1, 1)
    model.backbone[0].weight.data, model.neck.weight.data = weights, torch.eye(4)[..., None, None]
    model.backbone[0].bias.data.zero_()
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a config and two checkpoints of it, which lose their filters in turn."""
    (tmp_path / 'config.py').write_text(CLASSIFIER)
    save_classifier(tmp_path / 'falling.pth', [4.0, 3.0, 2.0, 1.0])
    save_classifier(tmp_path / 'rising.pth', [1.0, 2.0, 3.0, 4.0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Right, 'evaluations', 0)
    monkeypatch.setattr(Right, 'stop_at', None)
    return tmp_path


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('prune_curve', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ARGUMENTS = ['config.py', 'falling.pth', 'rising.pth', '--fractions', '0', '0.25', '0.5', '0.75']


def points(place):
    content = json.loads((place / 'work_dirs/prune_curve/prune_curve.json').read_text())
    return {
        tuple(
            value if key != 'checkpoint' else content['identity']['checkpoints'][value]
            for key, value in point['point'].items()
        ): point['metrics']['accuracy/top1']
        for point in content['points']
    }


class TestTool:
    def test_accuracy_by_hand(self, place, tool, capsys):
        tool.main([*ARGUMENTS, '--orders', 'l1', 'apoz', '--per-layer', '--layer-fractions', '0.5'])
        measured = points(place)
        # Where nothing is left, the answer is channel 0. The neck's filters are alike, so that it
        # loses 0, 1, 2; the backbone loses 3, 2, 1 or 0, 1, 2.
        falling = [measured['falling.pth', 'l1', None, None, f] for f in (0.25, 0.5, 0.75)]
        rising = [measured['rising.pth', 'l1', None, None, f] for f in (0.25, 0.5, 0.75)]
        assert measured['falling.pth', None, None, None, 0.0] == 1
        assert falling == [0.75, 0.25, 0.25]
        assert rising == [1, 0.75, 0.5]
        assert measured['falling.pth', 'l1', None, 'backbone.0', 0.5] == 0.5
        assert measured['falling.pth', 'l1', None, 'neck', 0.5] == 0.75
        # By average zeros all filters are alike.
        assert measured['falling.pth', 'apoz', None, None, 0.5] == 0.75
        assert len(measured) == 2 * (1 + 2 * 3 + 2 * 2) == Right.evaluations
        said = capsys.readouterr().out
        assert 'noise' not in said
        assert '2 convolutions with 8 filters' in said
        assert re.search(r'l1, falling +│ 1.000 │ 0.750 │ 0.250 │ 0.250 │ +10.0 % │ +0.417', said)
        assert re.search(r'backbone.0 +│ +4 │ +0.500 │ +0.750', said)

    @pytest.mark.parametrize(('name', 'value'), [('large', '-1'), ('class', 'nan')])
    def test_a_metric_with_nothing_to_measure_is_reported_before_anything_is_removed(
        self, place, tool, name, value
    ):
        words = rf'--metric accuracy/{name} is no measurement: it is {value}.*: accuracy/of, accur'
        with pytest.raises(ValueError, match=words):
            tool.main([*ARGUMENTS, '--metric', f'accuracy/{name}'])
        assert Right.evaluations == 1

    def test_measurements_that_are_none_are_named_and_left_out(self, place, tool, capsys):
        arguments = [*ARGUMENTS, '--orders', 'l1', '--metric', 'accuracy/top5']
        for _ in range(2):  # measured, then read from the file
            tool.main(arguments)
            said = capsys.readouterr().out
            assert re.search(r'l1, falling +│ 1.000 │ 0.750 │ +- │ +- │ +10.0 % │ +-', said)
            told = (
                'Warning: accuracy/top5 is no measurement (nan) and left out: falling, l1, 50 % of '
                'all layers, falling, l1, 75 % of all layers\n'
            )
            assert told in said
        page = (place / 'work_dirs/prune_curve/prune_curve.html').read_text()
        assert '<h2>Warnings</h2>' in page
        with pytest.raises(ValueError, match='accuracy/class is no measurement: it is nan'):
            tool.main([*ARGUMENTS, '--orders', 'l1', '--metric', 'accuracy/class'])
        # JSON has no nan.
        text = (place / 'work_dirs/prune_curve/prune_curve.json').read_text()
        json.loads(text, parse_constant=pytest.fail)

    def test_page_shows_tables_and_pictures(self, place, tool, capsys):
        orders = ['--orders', 'random', 'l1', '--seeds', '3', '4', '--per-layer']
        tool.main([*ARGUMENTS, *orders, '--work-dir', 'out [v1]'])
        assert 'Written: out [v1]/prune_curve.html\n' in capsys.readouterr().out
        page = (place / 'out [v1]/prune_curve.html').read_text()
        assert page.count('data:image/png') == 1 + 3
        assert '<td>l1, falling</td><td>1.000</td><td>0.750</td>' in page
        assert '± over 2 seeds' in page
        for name in ('prune_curve.png', 'prune_curve_layers.png'):
            with Image.open(place / 'out [v1]' / name) as picture:
                assert picture.width > 500

    def test_goes_on_where_it_was_stopped(self, place, tool):
        Right.stop_at = 6
        with pytest.raises(SystemExit, match='the same command goes on'):
            tool.main([*ARGUMENTS, '--orders', 'l1', 'random'])
        before = points(place)
        assert len(before) == 5
        Right.stop_at = None
        tool.main([*ARGUMENTS, '--orders', 'l1', 'random'])
        after = points(place)
        assert len(after) == 2 * (1 + 3 + 9)
        assert list(after.items())[:5] == list(before.items())
        assert Right.evaluations == len(after) + 1
        # All is there already: another metric is shown, nothing is measured.
        tool.main([*ARGUMENTS, '--orders', 'l1', 'random', '--metric', 'accuracy/of'])
        assert Right.evaluations == len(after) + 1

    def test_changed_checkpoint_or_input_is_reported(self, place, tool):
        tool.main([*ARGUMENTS, '--orders', 'l1'])
        scaled = ['--cfg-options', 'data_preprocessor.std=[2.0]']
        with pytest.raises(ValueError, match=r'data_preprocessor: None there, .*2.0'):
            tool.main([*ARGUMENTS, '--orders', 'l1', *scaled])
        save_classifier(place / 'rising.pth', [1.0, 2.0, 3.0, 5.0])
        with pytest.raises(ValueError, match=r'was another file: rising.pth[^$]*--overwrite'):
            tool.main([*ARGUMENTS, '--orders', 'l1'])
        tool.main([*ARGUMENTS, '--orders', 'l1', '--overwrite'])

    @pytest.mark.parametrize(
        ('arguments', 'words'),
        [
            (['--fractions', '0.5', '1'], r'--fractions must be in \[0, 1\), got 1.0'),
            (
                ['--per-layer', '--layer-fractions', '-0.1'],
                r'--layer-fractions must be in \[0, 1\), got -0.1',
            ),
            (['--fractions', '0'], 'needs a fraction above 0'),
            (['--fractions', 'nan'], 'got nan'),
            (['--orders', 'largest'], 'largest.*l1.*random'),
            (['--seeds', '0.5'], 'invalid int value'),
            (['--apoz-images', '0'], 'at least 1, got 0'),
            (['--layers', 'neck'], '--per-layer'),
        ],
    )
    def test_wrong_arguments(self, tool, capsys, arguments, words):
        with pytest.raises(SystemExit):
            tool.main(['config.py', 'falling.pth', *arguments])
        assert re.search(words, capsys.readouterr().err)

    @pytest.mark.parametrize(
        ('arguments', 'error', 'words'),
        [
            (['gone.pth'], FileNotFoundError, 'gone.pth does not exist.*falling.pth, other.pth'),
            (['cut.pth'], ValueError, 'cut.pth can not be read; it is truncated'),
            (['other.pth'], ValueError, r'other.pth does not fit(?s:.*)backbone.0.weight'),
            (['falling.pth', 'falling.pth'], ValueError, 'more than once'),
            (['falling.pth', '--metric', 'ap'], ValueError, 'exist: accuracy/of, accuracy/top1'),
            (
                ['falling.pth', '--per-layer', '--layers', 'nec'],
                ValueError,
                'nec matches no layer.*backbone.0, neck',
            ),
            (['falling.pth', '--targets', 'head'], ValueError, "'head'"),
            (
                ['falling.pth', '--cfg-options', 'test_evaluator=None'],
                ValueError,
                'has no test_evaluator',
            ),
        ],
    )
    def test_wrong_input_is_reported(self, place, tool, arguments, error, words):
        whole = (place / 'falling.pth').read_bytes()
        (place / 'cut.pth').write_bytes(whole[: len(whole) // 2])
        torch.save({'state_dict': {'neck.weight': torch.eye(4)[..., None, None]}}, 'other.pth')
        with pytest.raises(error, match=words):
            tool.main(['config.py', *arguments])
        assert Right.evaluations <= 1


@pytest.mark.slow
def test_detector_in_the_real_script_killed_and_gone_on_with(tmp_path):
    make_shapes(tmp_path / 'data/demo', {'train': 1, 'val': 4}, image_size=96)
    config = ROOT / 'configs' / 'faster_rcnn_r18_wau_demo.py'
    torch.manual_seed(0)
    model = MODELS.build(dict(Config.fromfile(config).model, _scope_='mmdet'))
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'start.pth')
    options = (
        'test_dataloader.dataset.pipeline.2.scale=(96,96) test_dataloader.num_workers=0 '
        'test_dataloader.persistent_workers=False model.test_cfg.rcnn.score_thr=0.0'
    )
    asked = (
        '--orders overlap random --seeds 0 --fractions 0.3 0.6 --per-layer '
        '--layers neck.fpn_convs.3 --layer-fractions 0.5 --cfg-options'
    )
    command = [config, 'start.pth', *asked.split(), *options.split()]
    results = tmp_path / 'work_dirs/prune_curve/prune_curve.json'
    script = subprocess.Popen(
        [sys.executable, TOOL, *command],
        cwd=tmp_path,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.DEVNULL,
    )
    while script.poll() is None and not (
        results.exists() and results.read_text().count('metrics') > 1
    ):
        time.sleep(0.05)
    script.send_signal(signal.SIGKILL)
    assert script.wait() == -signal.SIGKILL
    before = json.loads(results.read_text())['points']
    done = run_python(TOOL, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    after = json.loads(results.read_text())['points']
    assert 0 < len(before) < len(after) == 1 + 2 * 2 + 2
    assert after[: len(before)] == before
    assert all('coco/bbox_mAP' in point['metrics'] for point in after)
    assert 'Average Precision' not in done.stdout
    assert '28 convolutions with 2912 filters' in done.stdout
    assert 'neck.fpn_convs.3.conv' in done.stdout
    assert (tmp_path / 'work_dirs/prune_curve/prune_curve.html').is_file()
    # Images of 96 x 96 have no objects that COCO calls large.
    place = command.index('--cfg-options')
    asked = [*command[:place], '--metric', 'coco/bbox_mAP_l', *command[place:]]
    refused = run_python(TOOL, *asked, cwd=tmp_path)
    assert refused.returncode == 1
    assert '--metric coco/bbox_mAP_l is no measurement: it is -1, COCO' in refused.stdout
