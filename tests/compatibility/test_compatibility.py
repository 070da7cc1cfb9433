"""Recipes of MMDetection and MMPreTrain with WAU: the rules, a short sample, the page."""

import importlib
import json
import sys
from multiprocessing import get_context

import pytest
from detection import ROOT
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from threads import write_threads

from mmwau import WAUOptimWrapper
from mmwau.compatibility import recipes, trial
from mmwau.compatibility.data import SIDE, make_data
from mmwau.compatibility.exempt import EXEMPT, FAULTS
from mmwau.compatibility.recipes import (
    NotTriedError,
    choose_recipe,
    find_families,
    installed_projects,
    prepare,
    size_of,
    visit,
)
from mmwau.compatibility.report import page_of
from mmwau.compatibility.trial import TrialRecord, explain, try_recipe
from mmwau.files.records import read_records, write_records

NAMED = (
    'faster_rcnn mask_rcnn cascade_rcnn retinanet fcos atss gfl ssd yolox rtmdet centernet detr '
    'deformable_detr dino sparse_rcnn htc detectors'
)
PUBLISHED = json.loads((ROOT / 'docs' / 'compatibility.json').read_text())
PAGE = (ROOT / 'docs' / 'compatibility.md').read_text()


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('compatibility') / 'data')


@pytest.fixture
def tool(monkeypatch):
    """The script as a module, which processes that it starts find too."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    return importlib.import_module('compatibility')


def values_in(part):
    found = []
    visit(part, lambda key, value: found.append((key, value)) or value)
    return found


@pytest.mark.parametrize(
    ('larger', 'smaller', 'mark'),
    [
        ('fcos_r101_fpn_1x_coco', 'fcos_r50_fpn_1x_coco', 'fcos'),
        ('dino-5scale_swin-l_8xb2-12e_coco', 'dino-4scale_r50_8xb2-24e_coco', 'dino'),
        ('yolox_tiny_8xb8-300e_coco', 'yolox_nano_8xb8-300e_coco', 'yolox'),
        ('retinanet_r50_fpn_crop640-50e_coco', 'retinanet_r50_nasfpn_crop640-50e_coco', 'nas_fpn'),
        ('convnext-tiny_32xb128_in1k-384px', 'convnext-tiny_32xb128_in1k', 'convnext'),
        ('repvgg-A0_deploy_in1k', 'repvgg-A0_8xb32_in1k', 'repvgg'),
        ('resnet18_8xb16_cifar10', 'resnet18_8xb32_in1k', 'resnet'),
    ],
)
def test_the_smallest_of_the_familys_own_recipes_is_chosen(larger, smaller, mark):
    if mark == 'nas_fpn':  # the larger one has another neck
        assert size_of(smaller, mark) < size_of(larger, mark)
    else:
        assert min([larger, smaller], key=lambda name: size_of(name, mark)) == smaller


@pytest.mark.parametrize(
    ('project', 'family', 'reason'),
    [
        ('mmpretrain', 'minigpt4', 'language model of billions of weights'),
        ('mmpretrain', 'dinov2', 'no recipe with a training part'),
    ],
)
def test_what_cannot_be_drawn_is_reported(project, family, reason):
    with pytest.raises(NotTriedError, match=reason):
        choose_recipe(project, family)


def test_a_recipe_becomes_small_and_keeps_the_rest(data):
    recipe = choose_recipe('mmdet', 'rtmdet')
    before, cfg = Config.fromfile(recipe.path), prepare(recipe, data)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.train_dataloader.num_workers == 0
    assert cfg.train_cfg.max_iters == 2
    assert not cfg.val_dataloader
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root == str(data / 'detection')
    assert len(dataset.metainfo.classes) == 80
    # The same transforms, with small sizes.
    old = before.train_dataloader.dataset.pipeline
    assert [step.type for step in dataset.pipeline] == [step.type for step in old]
    sizes = [
        size
        for key, value in values_in(dataset.pipeline)
        if key in ('img_scale', 'scale', 'crop_size', 'size')
        for size in value
    ]
    assert set(sizes) == {SIDE}
    model = values_in(cfg.model)
    assert ('type', 'Pretrained') in values_in(before.model)
    assert ('type', 'Pretrained') not in model
    assert ('type', 'SyncBN') in values_in(before.model)
    assert ('type', 'SyncBN') not in model
    assert ('nms_pre', 50) in model
    assert cfg.model.bbox_head.num_classes == before.model.bbox_head.num_classes
    assert cfg.optim_wrapper.optimizer == before.optim_wrapper.optimizer
    assert cfg.optim_wrapper.paramwise_cfg == before.optim_wrapper.paramwise_cfg


def test_wau_comes_by_three_lines_beside_what_is_there(data):
    recipe = choose_recipe('mmdet', 'convnext')
    before, cfg = Config.fromfile(recipe.path), prepare(recipe, data)
    assert before.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.type == 'WAUOptimWrapper'
    assert cfg.optim_wrapper.update_ratio == 0.5
    assert 'dtype' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.constructor == before.optim_wrapper.constructor
    assert cfg.custom_imports.imports == [*before.custom_imports.imports, 'mmwau']
    yolox = prepare(choose_recipe('mmdet', 'yolox'), data)
    assert [hook.type for hook in yolox.custom_hooks] == [
        'YOLOXModeSwitchHook',
        'SyncNormHook',
        'EMAHook',
        'WAUHook',
    ]
    # The wrapper of Mosaic and MixUp stays; what is drawn is inside of it.
    assert yolox.train_dataloader.dataset.type == 'MultiImageMixDataset'
    assert yolox.train_dataloader.dataset.dataset.data_root == str(data / 'detection')


def test_exemptions_are_those_of_families_that_exist():
    projects = installed_projects()
    known = [f'{project}/{name}' for project in projects for name in find_families(project)]
    named = set(EXEMPT) | set(FAULTS)
    assert {name for name in named if name.split('/')[0] in projects} <= set(known)
    assert all(exempt.reason for exempt in EXEMPT.values())


@pytest.mark.parametrize(
    ('error', 'result', 'reason'),
    [
        (
            ValueError('No convolution of RetinaNet is below the prefixes in targets=(...)'),
            'does not apply',
            'no convolution that trains in backbone and neck',
        ),
        (ModuleNotFoundError("No module named 'lap'"), 'not tried', 'needs the package lap'),
        (
            ImportError('Please run "pip install sklearn" to install sklearn first.'),
            'not tried',
            'needs the package sklearn',
        ),
        (RuntimeError('carafe_forward_impl is not implemented on CPU'), 'not tried', 'GPU'),
        (KeyError('loss_cls'), 'failed', "KeyError: 'loss_cls'"),
        (RuntimeError('first line\nsecond'), 'failed', 'RuntimeError: first line'),
    ],
)
def test_an_error_becomes_a_reason(error, result, reason):
    told, why = explain(error)
    assert told == result
    assert reason in why
    assert 'second' not in why


@pytest.mark.slow
@pytest.mark.parametrize(
    ('project', 'family', 'left_out'),
    [
        ('mmdet', 'yolox', {}),
        ('mmdet', 'detr', {'frozen': 5}),
        ('mmdet', 'atss', {'frozen': 5}),
        ('mmpretrain', 'mobilenet_v3', {}),
        ('mmpretrain', 'deit', {}),
    ],
)
def test_sample_works(project, family, left_out, data, tmp_path):
    record = try_recipe(choose_recipe(project, family), data, tmp_path)
    assert record.result == 'works', record.reason
    assert record.left_out == left_out
    assert record.convolutions == record.held + sum(left_out.values())
    # Half of the filters in each of two updates.
    assert record.active == pytest.approx(record.filters, rel=0.01)
    assert record.moved <= record.active
    assert record.moved > 0.9 * (record.active - record.without_gradient)
    assert 0 < record.skipping['out'] <= record.held
    # Whatever convolution it is, its gradient is left out where it is held as a whole.
    assert record.skipping['layer'] == record.convolutions - sum(left_out.values())
    published = next(
        one for one in PUBLISHED['records'] if (one['project'], one['family']) == (project, family)
    )
    for name in ('recipe', 'held', 'convolutions', 'filters', 'left_out', 'active'):
        assert getattr(record, name) == published[name], name
    for axis, count in published['skipping'].items():
        assert record.skipping[axis] == count


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['forgets', 'stands'])
def test_a_wrapper_that_does_not_do_it_fails(kind, data, tmp_path, monkeypatch):
    def step(self, **kwargs):
        if kind == 'forgets':
            OptimWrapper.step(self, **kwargs)
        self.end_update()

    name = f'Wrapper{kind}'
    wrapper = type(name, (WAUOptimWrapper,), {'step': step})
    OPTIM_WRAPPERS.register_module(module=wrapper, force=True)
    monkeypatch.setattr(recipes, 'WRAPPER', name)
    record = try_recipe(choose_recipe('mmpretrain', 'mobilenet_v3'), data, tmp_path)
    OPTIM_WRAPPERS.module_dict.pop(name)
    assert record.result == 'failed'
    said = {
        'forgets': 'held filters of backbone.layer0.conv moved',
        'stands': 'no active filter of backbone.layer0.conv moved',
    }
    assert said[kind] in record.reason


def test_a_recipe_that_raises_is_a_row(data, tmp_path, monkeypatch):
    recipe = choose_recipe('mmpretrain', 'mobilenet_v3')
    monkeypatch.setattr(recipes, 'WRAPPER', 'NoSuchWrapper')
    monkeypatch.setattr(trial, 'error_of_plain', lambda *_: '')
    record = try_recipe(recipe, data, tmp_path)
    assert record.result == 'failed'
    assert 'NoSuchWrapper' in record.reason
    assert 'NoSuchWrapper' in page_of([record], {})
    # The same without WAU, for a reason that is known.
    monkeypatch.setattr(trial, 'error_of_plain', lambda *_: record.reason)
    monkeypatch.setitem(trial.FAULTS, recipe.name, 'its own fault')
    again = try_recipe(recipe, data, tmp_path)
    assert again.result == 'fails without WAU too'
    assert again.reason == f'{record.reason}: its own fault'


def test_rows_show_the_reasons():
    records = [
        TrialRecord('mmdet', 'video', reason='needs videos'),
        TrialRecord('mmdet', 'other', 'other/a.py', 'failed', 'KeyError: a | b'),
        TrialRecord('mmpretrain', 'mlp', 'mlp/b.py', 'does not apply', 'no convolution'),
    ]
    page = page_of(records, {'torch': '2'})
    assert '| video | – | – | – | – | – | – | **not tried**: needs videos |' in page
    assert r'| other | `a` | – | – | – | – | – | **failed**: KeyError: a \| b |' in page
    assert '2 families: 1 not tried, 1 failed.' in page
    assert '**does not apply**: no convolution |' in page


def test_the_script_goes_on_with_what_is_not_done(tool, tmp_path, monkeypatch, capsys):
    projects = installed_projects()
    names = [(project, family) for project in projects for family in find_families(project)]
    # What is known of a project that is not installed now stays.
    names.append(('mmgone', 'family'))
    monkeypatch.setitem(recipes.EXTRAS, 'mmgone', 'gone')
    done = [TrialRecord(*name, reason='before') for name in names if name != ('mmdet', 'common')]
    write_records(done, tmp_path / 'records.json')
    monkeypatch.setattr(sys, 'argv', ['compatibility.py', '--work-dir', str(tmp_path)])
    tool.main()
    records = {
        record.name: record for record in read_records(TrialRecord, tmp_path / 'records.json')
    }
    assert list(records) == ['/'.join(name) for name in names]
    assert records.pop('mmdet/common').reason == 'no recipe with a training part'
    assert {record.reason for record in records.values()} == {'before'}
    told = capsys.readouterr().out
    assert '[1/1] mmdet/common: not tried' in told
    assert "mmgone is not installed, its families are left out: pip install 'mmwau[gone]'" in told


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (['--only', 'nothing'], '--only nothing: no family has this in its name'),
        (['--report'], 'There are no records in'),
    ],
)
def test_what_the_script_says_of_wrong_options(options, said, tool, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool', *options, '--work-dir', str(tmp_path)])
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        tool.main()


@pytest.mark.slow
def test_a_recipe_that_takes_too_long_is_a_row(tool, data, tmp_path):
    recipe = choose_recipe('mmpretrain', 'mobilenet_v3')
    record = tool.try_in_process(recipe, data, tmp_path, time_limit=1)
    assert (record.result, record.reason) == ('failed', 'not done after 1 seconds')
    log = (tmp_path / 'mmpretrain' / 'mobilenet_v3' / 'log.txt').read_text()
    assert 'in train_in_process' in log


@pytest.mark.slow
def test_a_recipe_is_tried_with_one_thread(tool, data, tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr(tool, 'train_in_process', write_threads)
    # A server of other tests could have loaded torch already.
    monkeypatch.setattr(tool, 'get_context', lambda _: get_context('spawn'))
    tool.try_in_process(choose_recipe('mmpretrain', 'mobilenet_v3'), data, tmp_path, 60)
    assert (tmp_path / 'mmpretrain' / 'mobilenet_v3' / 'threads.txt').read_text() == '1'


def test_the_page_shows_the_records():
    records = [TrialRecord(**record) for record in PUBLISHED['records']]
    assert page_of(records, PUBLISHED['versions']) == PAGE


def test_the_page_covers_the_projects():
    works = {
        project: [
            one['family']
            for one in PUBLISHED['records']
            if one['project'] == project and one['result'] == 'works'
        ]
        for project in ('mmdet', 'mmpretrain')
    }
    assert set(works['mmdet']) >= set(NAMED.split())
    assert len(works['mmdet']) >= 50
    assert len(works['mmpretrain']) >= 30
    published = [f'{one["project"]}/{one["family"]}' for one in PUBLISHED['records']]
    families = [f'{project}/{name}' for project in works for name in find_families(project)]
    assert len(published) >= 120
    # In the order of the projects; what was not reached yet is not there. Other versions of the
    # projects than those of the page have a few other families.
    shared = [name for name in published if name in families]
    assert shared == [name for name in families if name in published]
    assert len(shared) >= 120


def test_an_error_names_no_folder_of_this_machine():
    error = FileNotFoundError(
        '\n/home/me/.venv/lib/python3.11/site-packages/mmpose/a.py not found\n'
    )
    assert recipes.short(error) == 'FileNotFoundError: mmpose/a.py not found'
