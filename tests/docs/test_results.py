"""What the pages in docs/results show is what was measured."""

import json

import pytest
from detection import ROOT

from mmwau.analysis.finetune_report import FinetuneReport
from mmwau.analysis.prune_results import Curves, Point
from mmwau.experiment.record import TrainingRecord
from mmwau.experiment.report import SuiteReport
from mmwau.experiment.suite import read_suite
from mmwau.files.records import read_records

RESULTS = ROOT / 'docs' / 'results'
SUITES = sorted(path.stem for path in RESULTS.glob('*.json'))


def report_of(name):
    suite = read_suite(ROOT / 'configs' / 'suites' / f'{name}.py')
    records = {
        (one.setting, one.arm, one.seed): one
        for one in read_records(TrainingRecord, RESULTS / f'{name}.json')
    }
    planned = {(one.setting, one.arm, one.seed): one for one in suite.trainings}
    assert set(records) <= set(planned)
    return SuiteReport(suite, {planned[key]: record for key, record in records.items()})


def test_there_are_results():
    assert SUITES == ['bccd_cpu', 'cifar10_cpu', 'finetune_rates', 'optimizers_cpu', 'pruning_cpu']


@pytest.mark.parametrize('name', SUITES)
def test_tables_of_the_page_are_those_of_the_records(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (RESULTS / f'{name}.md').read_text()
    tables = report_of(name).tables()
    assert tables
    for table in tables:
        assert table.to_markdown() in page


@pytest.mark.parametrize('name', SUITES)
def test_warnings_are_reported(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (RESULTS / f'{name}.md').read_text()
    for warning in report_of(name).warnings():
        assert warning in page


@pytest.mark.parametrize('name', SUITES)
def test_every_record_has_its_command(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for training, record in report_of(name).records.items():
        assert record.command.split()[:3] == training.command[:3]
        assert f'randomness.seed={record.seed}' in record.command


@pytest.mark.parametrize('name', SUITES)
def test_every_record_has_the_curve_of_the_metric(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    report = report_of(name)
    for record in report.records.values():
        assert record.curve(report.suite.metric)[-1][0] == record.iterations


PRUNED = sorted((RESULTS / 'pruning').glob('*.json'))


def pruned_report(path):
    content = json.loads(path.read_text())
    metrics = {Point(**one['point']): one['metrics'] for one in content['points']}
    identity = content['identity']
    # work_dirs/SUITE/SETTING/ARM/seedN/...
    places = {digest: place.split('/')[-3:-1] for digest, place in identity['checkpoints'].items()}
    checkpoints = {'/'.join(place): digest for digest, place in places.items()}
    curves = Curves(
        checkpoints,
        orders=sorted({point.order for point in metrics} - {None}),
        seeds=[],
        fractions=sorted({point.fraction for point in metrics} - {0}),
        layers={},
        layer_fractions=[],
    )
    arms = {
        name: [label for label in checkpoints if label.startswith(f'{folder}/')]
        for name, folder in (('baseline', 'baseline'), ('WAU', 'wau'))
    }
    assert [len(labels) for labels in arms.values()] == [3, 3]
    metric = next(
        name
        for name in ('coco/bbox_mAP', 'accuracy/top1')
        if name in content['points'][0]['metrics']
    )
    epochs = identity['config']['train_cfg']['max_epochs']
    return FinetuneReport(curves, metrics, metric, epochs, 0.01, arms)


def test_there_are_pruned_networks():
    assert [path.stem for path in PRUNED] == ['detector', 'resnet20', 'vgg19bn']


@pytest.mark.parametrize('path', PRUNED, ids=lambda path: path.stem)
def test_tables_of_pruned_networks_are_those_of_the_records(path):
    page = (RESULTS / 'pruning.md').read_text()
    report = pruned_report(path)
    for table in (report.limit_table(), *report.arm_tables()):
        assert table.to_markdown() in page
    assert not report.warnings()
