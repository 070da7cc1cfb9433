import inspect
import pickle
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.runner import Runner
from PIL import Image

from mmwau.datasets.cifar import LAYOUTS
from mmwau.scripts.preflight import check_wau

CONFIGS = Path(__file__).parents[2] / 'configs'
ARMS = {
    '_wau': dict(type='WAUOptimWrapper', update_ratio=0.5),
    '_wau_authors': dict(
        type='WAUOptimWrapper',
        update_ratio=0.5,
        axis='in',
        sampler='with_replacement',
        min_active=0,
    ),
}
# The reading that not every baseline has configs of.
LAYERS = {
    '_wau_layers': dict(type='WAUOptimWrapper', update_ratio=0.5, axis='layer', hold='state'),
    '_wau_authors_layers': dict(
        type='WAUOptimWrapper',
        update_ratio=0.5,
        axis='layer',
        sampler='with_replacement',
        hold='state',
        min_active=0,
    ),
}
BY_LAYERS = 'cifar/resnet20_cifar10'
# Epochs, after which of them the learning rate is multiplied, by what, and the batch.
SHORT, LONG = (164, [81, 122], 0.1, 128), (300, [150, 225], 0.1, 128)
COSINE = (1800, None, None, 128)
RECIPES = {
    'alexnet': SHORT,
    'vgg19bn': SHORT,
    'resnet20': SHORT,
    'resnet32': SHORT,
    'resnet50': SHORT,
    'resnet56': SHORT,
    'preresnet110': SHORT,
    'resnext29_8x64d': LONG,
    'wrn28_10': (200, [60, 120, 160], 0.2, 128),
    'densenet40_12': (300, [150, 225], 0.1, 64),
    'densenet100_12': (300, [150, 225], 0.1, 64),
    'googlenet': SHORT,
    'shakeshake26_2x32d': COSINE,
    'shakeshake26_2x96d': COSINE,
    'shakedrop110': LONG,
}
# Networks that the paper cites, which are trained by whole layers too.
CITED = ('googlenet', 'shakeshake', 'shakedrop')
# By a part of the config's name.
OPTIMIZERS = {
    'shakeshake': dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4, nesterov=True),
    'shakedrop': dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    '_adam': dict(type='Adam', lr=1e-3, weight_decay=1e-4),
    '_adagrad': dict(type='Adagrad', lr=1e-2, weight_decay=1e-4),
    '': dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-3),
}
BASELINES = [
    *(f'cifar/{network}_cifar{classes}' for network in RECIPES for classes in (10, 100)),
    'cifar/resnet20_adam_cifar10',
    'cifar/resnet20_adagrad_cifar10',
]
IMAGENET = ['imagenet/resnet50_8xb32_in1k', 'imagenet/googlenet_8xb32_in1k']
# The same networks with few blocks and channels.
SHRINK = {
    'alexnet': {},
    'vgg19bn': dict(depth=11),
    'resnet': dict(blocks=8),
    'preresnet110': dict(blocks=8),
    'resnext29_8x64d': dict(blocks=11, cardinality=2, bottleneck_width=4),
    'wrn28_10': dict(depth=10, widen_factor=1),
    'densenet': dict(blocks=10),
    'googlenet': {},
    'shakeshake': dict(blocks=8, first_stage_channels=4),
    'shakedrop': dict(blocks=8),
}
RUNNER_SETTINGS = set(inspect.signature(Runner).parameters) - {'cfg', 'experiment_name'}
BEYOND_ONE_EPOCH = ('param_scheduler', 'auto_scale_lr')
CHANNELS = {'wrn28_10': 64, 'densenet': 27, 'shakeshake': 16}


def beside(baseline, arm):
    """Name of an arm of a baseline: its network comes first, then the arm."""
    folder, name = baseline.split('/')
    network = next(key for key in RECIPES if name.startswith(f'{key}_'))
    return f'{folder}/{network}{arm}{name.removeprefix(network)}'


def arms_of(baseline):
    """Lines of WAU in the arms of a baseline."""
    if baseline == BY_LAYERS:
        return {**ARMS, **LAYERS}
    if baseline.startswith(tuple(f'cifar/{network}' for network in CITED)):
        return {**ARMS, '_wau_layers': LAYERS['_wau_layers']}
    return ARMS


NAMES = [
    beside(baseline, arm)
    for baseline in [*BASELINES, *IMAGENET]
    for arm in ('', *arms_of(baseline))
]


@cache
def read(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name):
    return deepcopy(read(name))


def test_every_config_with_wau_is_tested_here():
    stems = [f'{path.parent.name}/{path.stem}' for path in CONFIGS.glob('[ci]*/*_wau_*.py')]
    born_again = 'cifar/resnet20_wau_born_again_cifar10'  # tested in test_comparison_configs.py
    assert sorted(stems) == sorted([*(name for name in NAMES if '_wau_' in name), born_again])


@pytest.mark.parametrize('baseline', [*BASELINES, *IMAGENET])
def test_arms_differ_from_their_baseline_only_in_the_lines_of_wau(baseline):
    expected = load(baseline).to_dict()
    assert expected.pop('custom_hooks') == [dict(type='OverlapHook')]
    assert expected['custom_imports'] == dict(imports=['mmwau'], allow_failed_imports=False)
    assert expected['optim_wrapper'].pop('type', 'OptimWrapper') == 'OptimWrapper'
    for arm, lines in arms_of(baseline).items():
        wau = load(beside(baseline, arm))
        check_wau(wau)
        wau = wau.to_dict()
        assert wau.pop('custom_hooks') == [dict(type='WAUHook')]
        for key, value in lines.items():
            assert wau['optim_wrapper'].pop(key) == value
        assert wau == expected


@pytest.mark.parametrize('name', BASELINES)
def test_recipe_is_that_of_its_source(name):
    cfg = load(name)
    epochs, milestones, gamma, batch = next(
        recipe for network, recipe in RECIPES.items() if name.startswith(f'cifar/{network}_')
    )
    kind = next(kind for kind in OPTIMIZERS if kind in name)
    assert cfg.optim_wrapper == dict(type='OptimWrapper', optimizer=OPTIMIZERS[kind])
    steps = dict(type='MultiStepLR', by_epoch=True, milestones=milestones, gamma=gamma)
    if milestones is None:  # down to 0 with the last iteration
        steps = dict(
            type='CosineAnnealingLR', by_epoch=True, T_max=epochs, convert_to_iter_based=True
        )
    assert cfg.param_scheduler == steps
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=epochs, val_interval=1)
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.train_dataloader.sampler.shuffle is True
    assert cfg.train_dataloader.get('drop_last', False) is False
    classes = 100 if name.endswith('100') else 10
    for loader, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        dataset = cfg[f'{loader}_dataloader'].dataset
        assert (dataset.type, dataset.split) == (f'CIFAR{classes}', split)
        assert dataset.data_root.rstrip('/') == f'data/cifar{classes}'
        assert 'download' not in dataset
    assert cfg.train_dataloader.dataset.pipeline == [
        dict(type='RandomCrop', crop_size=32, padding=4),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs'),
    ]
    assert cfg.val_dataloader.dataset.pipeline == [dict(type='PackInputs')]
    preprocessor = cfg.data_preprocessor
    assert preprocessor.num_classes == cfg.model.head.num_classes == classes
    assert preprocessor.to_rgb is False
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    assert preprocessor.mean == pytest.approx([255 * value for value in mean])
    assert preprocessor.std == pytest.approx([255 * value for value in std])
    assert cfg.randomness.seed is None
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 2


def test_networks_are_those_of_their_names():
    """What shapes and numbers of parameters (tests/models/test_models.py) do not show."""
    assert load('cifar/wrn28_10_cifar10').model.backbone.dropout == 0.3
    assert load('cifar/vgg19bn_cifar10').model.backbone.norm_cfg == dict(type='BN')
    for network, depth in (('resnet20', 20), ('resnet32', 32), ('resnet50', 50), ('resnet56', 56)):
        backbone = load(f'cifar/{network}_cifar100').model.backbone
        assert (backbone.blocks, backbone.bottleneck) == (depth, False)


@pytest.mark.parametrize('name', IMAGENET)
def test_imagenet_config_is_the_recipe_of_mmpretrain(name):
    cfg = load(name)
    recipe = deepcopy(get_config('mmpretrain::resnet/resnet50_8xb32_in1k.py'))
    if 'googlenet' in name:
        assert cfg.model.backbone == dict(type='GoogLeNet')
        cfg.model.backbone = recipe.model.backbone
        assert cfg.model.head.pop('in_channels') == 1024
        recipe.model.head.pop('in_channels')
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader'):
        assert without_scope(cfg[key]) == without_scope(recipe[key])
    assert cfg.optim_wrapper.optimizer.lr == 0.1
    assert cfg.train_cfg.max_epochs == 100
    assert (cfg.model.backbone.type, cfg.model.backbone.depth) == ('ResNet', 50)


def without_scope(part):
    """A part of a config without the scopes that inheriting from a package adds."""
    if isinstance(part, dict):
        return {key: without_scope(value) for key, value in part.items() if key != '_scope_'}
    return [without_scope(item) for item in part] if isinstance(part, list) else part


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """CIFAR-10 and CIFAR-100 of four images each, and four of ImageNet."""
    root, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    for classes, layout in LAYOUTS.items():
        folder = root / f'cifar{classes}' / layout.folder
        folder.mkdir(parents=True)
        names = [str(number) for number in range(classes)]
        (folder / layout.meta).write_bytes(pickle.dumps({layout.names: names}))
        for name in layout.batches['train']:
            count = 0 if name[-1] in '2345' else 4
            images = rng.integers(0, 256, (count, 3072), np.uint8)
            labels = rng.integers(0, classes, count).tolist()
            batch = {'data': images, layout.labels: labels}
            (folder / name).write_bytes(pickle.dumps(batch))
    for number in range(4):
        folder = root / 'imagenet' / 'train' / f'n0000000{number}'
        folder.mkdir(parents=True)
        image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8))
        image.save(folder / 'image.jpg')
    return root


def options(name, data):
    """What a user would give as --cfg-options, for two iterations of two images."""
    folder, config = name.split('/')
    network = next((key for key in SHRINK if config.startswith(key)), 'resnet')
    shrink = SHRINK[network]
    if folder == 'imagenet' and network == 'resnet':
        shrink = dict(depth=18)
    options = {f'model.backbone.{key}': value for key, value in shrink.items()}
    if network in CHANNELS:
        options['model.head.in_channels'] = CHANNELS[network]
    if folder == 'imagenet':
        if network == 'resnet':
            options['model.head.in_channels'] = 512
        options['train_dataloader.dataset.pipeline.1.scale'] = 32
        options['train_dataloader.dataset.metainfo'] = dict(classes=['a', 'b', 'c', 'd'])
        root = data / 'imagenet'
    else:
        options['train_dataloader.dataset.type'] = 'CIFARBatches'
        if network == 'googlenet':  # as large as it is
            options['train_dataloader.dataset.pipeline.0.crop_size'] = 8
        root = data / config.split('_')[-1]
    return {
        **options,
        'train_dataloader.dataset.data_root': str(root),
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.serialize_data': False,
        'train_dataloader.num_workers': 0,
        'train_cfg.max_epochs': 1,
        'default_hooks.checkpoint.save_last': False,
        'default_hooks.checkpoint.interval': -1,
        'default_hooks.logger.interval': 1,
        'randomness.seed': 0,
    }


class KeepLayers(Hook):
    """Keeps the weights of all convolutions at the start and after each update, and the loss."""

    priority = 'VERY_LOW'

    def before_train(self, runner):
        self.weights, self.losses = [], []
        self.after_train_iter(runner)

    def after_train_iter(self, runner, batch_idx=None, data_batch=None, outputs=None):
        named = runner.model.backbone.named_parameters(prefix='backbone')
        self.weights.append({name: p.detach().clone() for name, p in named if p.dim() == 4})
        if outputs is not None:
            self.losses.append(outputs['loss'].item())


def draws(name):
    """Whether a config keeps its hook, whose pictures take long, in the test below."""
    if 'googlenet' in name:
        return False
    return name == 'cifar/resnet20_cifar10' or ('_wau_cifar10' in name and '100' not in name)


@pytest.fixture(scope='module')
def trained():
    """Names of the configs that were trained, by what they are when made small."""
    return {}


@pytest.mark.parametrize('name', NAMES)
def test_trains_two_updates_and_holds(name, data, trained, tmp_path):
    cfg = load(name)
    cfg.merge_from_dict(options(name, data))
    # Depths and schedules make no difference here: those that are the same now train once.
    small = {key: value for key, value in cfg.to_dict().items() if key not in BEYOND_ONE_EPOCH}
    if trained.setdefault(repr(small), name) != name:
        return
    cfg.work_dir = str(tmp_path)
    for stage in ('val', 'test'):
        cfg[f'{stage}_dataloader'] = cfg[f'{stage}_evaluator'] = cfg[f'{stage}_cfg'] = None
    if not draws(name):
        cfg.custom_hooks = []
    # As Runner.from_cfg, without the text of the config in the log, which takes longest.
    settings = {key: value for key, value in cfg.items() if key in RUNNER_SETTINGS}
    runner = Runner(experiment_name=name, **settings)
    kept = KeepLayers()
    runner.register_hook(kept)
    runner.train()
    assert len(kept.losses) == 2
    assert np.isfinite(kept.losses).all()
    assert (tmp_path / 'overlap.png').is_file() == draws(name)
    wrapper = runner.optim_wrapper
    for update in (0, 1):
        before, after = kept.weights[update : update + 2]
        moved = {layer: before[layer] != after[layer] for layer in before}
        if '_wau' not in name:
            assert all(part.any() for part in moved.values())
            continue
        layers = {layer.name: layer for layer in wrapper.layers.values()}
        assert layers.keys() == moved.keys()
        if '_layers' in name:
            active = wrapper.wau.select(layers.values(), update)
            assert [moved[layer].any() for layer in layers] == active
            assert not all(active)
            continue
        dim = 1 if '_authors' in name else 0
        for layer, active in zip(layers, wrapper.wau.select(layers.values(), update), strict=True):
            moved_slices = moved[layer].transpose(0, dim).flatten(1).any(dim=1)
            assert torch.equal(moved_slices, active), (layer, update)
            assert not active.all()
