import pickle
import random
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from detection import ROOT, free_port, run
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from small import small_runner
from torch import nn

from mmwau.datasets.cifar import LAYOUTS
from mmwau.experiment.suite import read_suite
from mmwau.scripts.preflight import check_wau

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cifar'
# By name of the config its hook, and options with which it acts in three epochs of one iteration.
HOOKS = {
    'repr': ('RePrHook', dict(full_epochs=1, sub_epochs=1, cycles=1)),
    'so': ('OrthogonalityHook', dict(coefficients=[0.1, 0], milestones=[2])),
    'srip': ('OrthogonalityHook', dict(coefficients=[0.1, 0], milestones=[2])),
    'dropout': ('DropoutHook', {}),
    'dsd': ('DSDHook', dict(begin=1, end=2)),
}
NAMES = pytest.mark.parametrize('name', list(HOOKS))


@cache
def read(name):
    return Config.fromfile(CONFIGS / f'resnet20{name}_cifar10.py')


def load(name):
    return deepcopy(read(name))


@NAMES
def test_differs_from_the_baseline_only_in_its_hook(name):
    cfg, baseline = load(f'_{name}').to_dict(), load('').to_dict()
    overlap, hook = cfg.pop('custom_hooks')
    assert [overlap] == baseline.pop('custom_hooks')
    assert hook['type'] == HOOKS[name][0]
    assert cfg == baseline
    if 'kind' in hook:
        assert hook['kind'] == name


@pytest.mark.parametrize(
    ('name', 'baseline'), [('_born_again', ''), ('_wau_born_again', '_born_again')]
)
def test_born_again_differs_from_its_baseline_only_in_its_lines(name, baseline):
    cfg, expected = load(name).to_dict(), load(baseline).to_dict()
    measure, hook = cfg.pop('custom_hooks')
    assert hook == dict(type='BornAgainHook', teacher='work_dirs/resnet20_cifar10/epoch_164.pth')
    assert hook['teacher'].endswith(f'epoch_{cfg["train_cfg"]["max_epochs"]}.pth')
    measured, *others = expected.pop('custom_hooks')
    if name == '_born_again':
        assert (measure, others) == (measured, [])
    else:
        assert (measure, others) == (dict(type='WAUHook'), [hook])
        lines = dict(type='WAUOptimWrapper', update_ratio=0.5)
        assert {key: cfg['optim_wrapper'].pop(key) for key in lines} == lines
        expected['optim_wrapper'].pop('type')
    assert cfg == expected


def test_the_stages_of_dsd_have_a_tenth_of_the_learning_rate_each():
    cfg = load('_dsd')
    hook = cfg.custom_hooks[1]
    assert cfg.param_scheduler.milestones == [hook.begin, hook.end]
    assert cfg.param_scheduler.gamma == 0.1
    assert hook.end < cfg.train_cfg.max_epochs


def test_repr_ends_before_training_does():
    cfg = load('_repr')
    hook = cfg.custom_hooks[1]
    assert hook.cycles * (hook.full_epochs + hook.sub_epochs) < cfg.train_cfg.max_epochs


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """CIFAR-10 of two images."""
    root, rng, layout = tmp_path_factory.mktemp('data'), np.random.default_rng(0), LAYOUTS[10]
    folder = root / layout.folder
    folder.mkdir()
    (folder / layout.meta).write_bytes(pickle.dumps({layout.names: list('abcdefghij')}))
    for name in layout.batches['train']:
        count = 2 if name == 'data_batch_1' else 0
        images = rng.integers(0, 256, (count, 3072), np.uint8)
        batch = {'data': images, layout.labels: rng.integers(0, 10, count).tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    return root


class Look(Hook):
    """Keeps fractions of zeros among filters and weights, losses, and dropped outputs."""

    def __init__(self):
        self.zero_filters, self.zero_weights, self.losses, self.dropped = [], [], [], []

    def before_train(self, runner):
        self.convolutions = [
            module for module in runner.model.modules() if isinstance(module, nn.Conv2d)
        ]
        runner.model.backbone.stage1.unit1.body.conv2.register_forward_pre_hook(
            lambda module, args: self.dropped.append((args[0] == 0).float().mean().item())
        )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        weights = [module.weight.detach() for module in self.convolutions]
        filters = torch.cat([(weight.flatten(1) == 0).all(dim=1) for weight in weights])
        self.zero_filters.append(filters.float().mean().item())
        zeros = sum(int((weight == 0).sum()) for weight in weights[1:])
        self.zero_weights.append(zeros / sum(weight.numel() for weight in weights[1:]))
        self.losses.append({key: value.item() for key, value in outputs.items()})


def teacher(cfg, folder):
    """The checkpoint of a network that was not trained."""
    init_default_scope('mmpretrain')
    model = deepcopy(cfg.model)
    model.backbone.blocks = 8
    torch.save(MODELS.build(model).state_dict(), folder / 'teacher.pth')
    return folder / 'teacher.pth'


def train(name, data, work_dir):
    cfg = load(name)
    if 'born_again' in name:
        cfg.custom_hooks[1].teacher = str(teacher(cfg, work_dir))
    elif name:
        cfg.custom_hooks[1].update(HOOKS[name[1:]][1])
    cfg.merge_from_dict(
        {
            'custom_hooks': cfg.custom_hooks[1:],  # pictures take long
            'model.backbone.blocks': 8,
            'train_dataloader.dataset.type': 'CIFARBatches',
            'train_dataloader.dataset.data_root': str(data),
            'train_dataloader.dataset.serialize_data': False,
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_cfg.max_epochs': 3,
            'default_hooks.checkpoint.interval': -1,
            'default_hooks.checkpoint.save_last': False,
            'default_hooks.logger.interval': 1,
            'randomness.seed': 0,
            'work_dir': str(work_dir),
        }
    )
    check_wau(cfg)
    for stage in ('val', 'test'):
        cfg[f'{stage}_dataloader'] = cfg[f'{stage}_evaluator'] = cfg[f'{stage}_cfg'] = None
    cfg.experiment_name = f'comparison{name}'
    runner = Runner.from_cfg(cfg)
    look = Look()
    runner.register_hook(look, priority='LOWEST')
    runner.train()
    return look


@NAMES
def test_trains_and_acts(name, data, tmp_path):
    look = train(f'_{name}', data, tmp_path)
    assert np.isfinite([losses['loss'] for losses in look.losses]).all()
    one_third = pytest.approx(0.3, abs=0.02)
    assert look.zero_filters == [0, one_third if name == 'repr' else 0, 0]
    if name != 'repr':
        assert look.zero_weights == [0, one_third if name == 'dsd' else 0, 0]
    if name in ('so', 'srip'):
        penalties = [losses['loss_orthogonality'] for losses in look.losses]
        assert penalties[0] > penalties[1] > penalties[2] == 0
    if name == 'dropout':  # of the half that ReLU leaves 0.3 are dropped
        assert all(share > 0.58 for share in look.dropped)


def test_teachers_of_the_suite_are_trained_before_their_students(monkeypatch):
    monkeypatch.chdir(ROOT)
    trained, taught = set(), 0
    for one in read_suite('configs/suites/born_again.py').trainings:
        if 'custom_hooks.1.teacher' in one.options:
            teacher = Path(one.options['custom_hooks.1.teacher'])
            assert teacher.relative_to('work_dirs/born_again').parent in trained
            assert teacher.parent.name != f'seed{one.seed}'
            assert ('wau' in str(teacher)) == ('WAU' in one.arm)
            taught += 1
        trained.add(one.folder)
    assert (taught, len(trained)) == (12, 30)


@pytest.mark.parametrize('name', ['_born_again', '_wau_born_again'])
def test_born_again_trains_and_comes_nearer_to_its_teacher(name, data, tmp_path):
    losses = train(name, data, tmp_path).losses
    assert losses[0]['loss_born_again'] > losses[-1]['loss_born_again'] > 0


def random_states(work_dir, hooks):
    """The states of the global random generators after three short epochs."""
    small_runner(work_dir, dict(type='OptimWrapper'), hooks, max_epochs=3).train()
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.fixture(scope='module')
def baseline_states(tmp_path_factory):
    return random_states(tmp_path_factory.mktemp('baseline'), [])


@NAMES
def test_global_random_numbers_are_left_alone(name, baseline_states, tmp_path):
    kind, options = HOOKS[name]
    hook = dict(type=kind, **options)
    if name in ('so', 'srip'):
        hook['kind'] = name
    if name == 'dropout':
        hook.update(drop_prob=0.5, modules='neck')
    assert random_states(tmp_path, [hook]) == baseline_states


@NAMES
def test_wrong_settings_are_reported_before_anything_is_built(name):
    cfg = load(f'_{name}')
    wrong = {
        'repr': (dict(drop_ratio=2), 'drop_ratio must be in'),
        'so': (dict(kind='hard'), 'kind must be one of'),
        'srip': (dict(milestones=[5]), '1 milestones need 2 coefficients'),
        'dropout': (dict(drop_prob=1), 'drop_prob must be in'),
        'dsd': (dict(end=3), 'end must be at least 82'),
    }
    options, words = wrong[name]
    cfg.custom_hooks[1].update(options)
    with pytest.raises(ValueError, match=words):
        check_wau(cfg)


@pytest.mark.slow
def test_two_processes_stay_equal(tmp_path):
    script = ROOT / 'tests' / 'helpers' / 'comparison_processes.py'
    launch = ['-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={free_port()}']
    done = run([sys.executable, *launch, script, tmp_path], tmp_path)
    # A process may abort at its very end, when the other is gone; what they said counts.
    said = [line.split(' | ')[1:] for line in done.stdout.splitlines() if line.startswith('ARM')]
    assert [name for name, *_ in said] == [
        'repr',
        'repr zero',
        'dsd',
        'dsd zero',
        'so',
        'srip',
        'dropout',
    ], done.stdout[-5000:]
    assert all(different == '[0, 0]' for _, different, _ in said)
    # ZeroRedundancyOptimizer, whose state is cut over processes, ends as the optimizer in it.
    assert [name for name, _, same in said if same == 'True'] == ['repr zero', 'dsd zero']
    assert 'DROPPED | False' in done.stdout
