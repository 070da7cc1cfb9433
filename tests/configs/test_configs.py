"""The detection configs; those of CIFAR are tested in test_cifar_configs.py."""

import gc
import json
import math
import re
from pathlib import Path

import mmdet
import mmpretrain
import pytest
import torch
import yaml
from detection import make_coco
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmwau import WAU, WAUOptimWrapper, find_layers

CONFIGS = Path(__file__).parents[2] / 'configs'
ZOO = Path(mmdet.__file__).parent / '.mim' / 'configs'
# Baselines that have both arms, and how many convolutions these hold: 42 in a ResNet-50, 93 in a
# network of 101 layers, without the stem and the first stage, which are frozen; 8 in each neck.
HELD = {
    'faster_rcnn_r50_coco': 50,
    'detection/faster_rcnn_r50_2x_coco': 50,
    'detection/faster_rcnn_r101_1x_coco': 101,
    'detection/faster_rcnn_r101_2x_coco': 101,
    'detection/faster_rcnn_x101_32x4d_1x_coco': 101,
    'detection/faster_rcnn_x101_32x4d_2x_coco': 101,
    'detection/faster_rcnn_x101_64x4d_1x_coco': 101,
    'detection/faster_rcnn_x101_64x4d_2x_coco': 101,
    'detection/faster_rcnn_r50_c4_1x_coco': 42,
    'detection/faster_rcnn_vgg16_1x_coco': 9,
    'detection/retinanet_r50_1x_coco': 50,
    'detection/mask_rcnn_r50_1x_coco': 50,
    'detection/cascade_rcnn_r50_1x_coco': 50,
    'faster_rcnn_r18_bccd': 28,  # from scratch, so that nothing is frozen
}
DEMO = 'faster_rcnn_r18_demo'
VGG = 'detection/faster_rcnn_vgg16_1x_coco'
# Measuring the overlap takes longer than training here: done where the layers are none of a ResNet
# with FPN.
MEASURED = (VGG, 'detection/faster_rcnn_r50_c4_1x_coco', 'detection/faster_rcnn_x101_32x4d_1x_coco')
COCO = [baseline for baseline in HELD if baseline.endswith('coco')]
ARMS = {
    'wau': dict(update_ratio=0.5),
    'wau_authors': dict(update_ratio=0.5, axis='in', sampler='with_replacement', min_active=0),
}
# The reading that not every baseline has a config of.
LAYERS = dict(update_ratio=0.5, axis='layer', hold='state')
BY_LAYERS = ('faster_rcnn_r50_coco', 'faster_rcnn_r18_bccd', DEMO)
# The recipes at 64 pixels, with the learning rate of after the warm-up: there only weight decay
# moves every weight by more than float32 rounds off, whatever the gradients are.
SMALL = {
    'train_dataloader.batch_size': 1,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'train_dataloader.dataset.indices': 2,
    'train_dataloader.dataset.ann_file': 'annotations/instances_train2017.json',
    'train_dataloader.dataset.data_prefix.img': 'train2017/',
    'train_dataloader.dataset.pipeline.2.scale': (64, 64),
    'train_cfg.max_epochs': 1,
    'param_scheduler.0.start_factor': 1.0,
    'default_hooks.checkpoint': None,
    'randomness.seed': 3,
    **dict.fromkeys(('val_dataloader', 'val_evaluator', 'val_cfg')),
    **dict.fromkeys(('test_dataloader', 'test_evaluator', 'test_cfg')),
}
# The widest ones are half as wide, in as many groups. BCCD's three classes are three of the drawn
# ones.
SMALLER = {
    '64x4d': {'model.backbone.base_width': 2},
    'bccd': {'train_dataloader.dataset.metainfo.classes': ('sports ball', 'book', 'pizza')},
}
# What makes no difference to the losses of two iterations.
OTHERWISE = ('param_scheduler', 'custom_hooks')


def load(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def arm_of(baseline, arm):
    """Name of a config's arm: NETWORK_[SCHEDULE_]DATA becomes NETWORK_ARM_[SCHEDULE_]DATA."""
    return re.sub(r'(_[12]x)?_(coco|bccd|demo)$', rf'_{arm}\g<0>', baseline)


def recipe_of(baseline):
    """The path of MMDetection's recipe that a config is a delta on."""
    return re.search(r"^_base_ = 'mmdet::(.*)'$", (CONFIGS / f'{baseline}.py').read_text(), re.M)[1]


def without_scope(part):
    """A config without the marks that MMEngine leaves where `mmdet::` was followed."""
    if isinstance(part, dict):
        return {key: without_scope(value) for key, value in part.items() if key != '_scope_'}
    return [without_scope(item) for item in part] if isinstance(part, list) else part


def test_every_config_is_in_a_pair():
    paths = [*CONFIGS.glob('*.py'), *CONFIGS.glob('detection/*.py')]
    found = [str(path.relative_to(CONFIGS).with_suffix('')) for path in paths]
    names = list(HELD) + [arm_of(baseline, arm) for baseline in HELD for arm in ARMS]
    names += [DEMO, arm_of(DEMO, 'wau'), *(arm_of(name, 'wau_layers') for name in BY_LAYERS)]
    assert sorted(found) == sorted(names)


@pytest.mark.parametrize(
    ('baseline', 'arm'),
    [
        *((baseline, arm) for baseline in HELD for arm in ARMS),
        (DEMO, 'wau'),
        *((baseline, 'wau_layers') for baseline in BY_LAYERS),
    ],
)
def test_pairs_differ_only_in_the_lines_of_wau(baseline, arm):
    wau, baseline = load(arm_of(baseline, arm)).to_dict(), load(baseline).to_dict()
    assert 'mmwau' in wau['custom_imports']['imports']
    (hook,), (baseline_hook,) = wau.pop('custom_hooks'), baseline.pop('custom_hooks')
    assert hook.pop('type') == 'WAUHook'
    assert baseline_hook.pop('type') == 'OverlapHook'
    # WAUHook measures what is held.
    targets = {'targets': baseline_hook.pop('targets')} if 'targets' in baseline_hook else {}
    assert hook == baseline_hook
    assert wau['optim_wrapper'].pop('type') == 'WAUOptimWrapper'
    assert baseline['optim_wrapper'].pop('type') == 'OptimWrapper'
    lines = {**ARMS, 'wau_layers': LAYERS}[arm]
    options = {key: wau['optim_wrapper'].pop(key) for key in (*lines, *targets)}
    assert options == {**lines, **targets}
    assert wau == baseline


@pytest.mark.parametrize('baseline', [baseline for baseline in COCO if baseline != VGG])
def test_baseline_is_the_recipe_of_mmdetection(baseline):
    config = without_scope(load(baseline).to_dict())
    del config['custom_imports'], config['custom_hooks']
    assert config == Config.fromfile(ZOO / recipe_of(baseline)).to_dict()


def test_readme_has_the_numbers_of_mmdetection():
    text = (CONFIGS / 'detection' / 'README.md').read_text()
    rows = [re.split(r' *\| *', line)[1:-1] for line in text.splitlines() if line.startswith('| [')]
    shown = {}
    for row in rows:
        arms, (baseline,) = (re.findall(r'\[`(\w+)\.py`\]\((\S+)\.py\)', cell) for cell in row[:2])
        assert all(link.removeprefix('../') == name for name, link in [*arms, baseline])
        place = CONFIGS / 'detection' / f'{baseline[1]}.py'
        baseline = str(place.resolve().relative_to(CONFIGS).with_suffix(''))
        assert [Path(arm_of(baseline, arm)).name for arm in ARMS] == [name for name, _ in arms]
        shown[baseline] = tuple(row[2:])
    measured = {}
    for baseline in COCO:
        recipe = Path(recipe_of(baseline))
        metafile = recipe.with_name('metafile.yml')
        models = yaml.safe_load((ZOO / metafile).read_text())['Models']
        (model,) = (model for model in models if model['Config'] == f'configs/{recipe}')
        results = {result['Task']: result['Metrics'] for result in model['Results']}
        measured[baseline] = (str(results['Object Detection']['box AP']), f'`{metafile}`')
    assert shown == {**measured, VGG: ('none', '–')}


def test_vgg_gives_conv5_3_to_heads_of_its_stride_and_width():
    config = load(VGG)
    model = config.model
    names = Path(mmpretrain.__file__).parent.joinpath('.mim/configs/vgg/metafile.yml').read_text()
    # The two stacks name two servers for the same file.
    assert f'/{Path(model.backbone.init_cfg.checkpoint).name}\n' in names
    model.backbone.init_cfg = None
    backbone = MODELS.build(model.backbone)
    backbone.train()
    (features,) = backbone(torch.zeros(1, 3, 64, 96))
    assert features.shape == (1, model.rpn_head.in_channels, 4, 6)
    assert model.rpn_head.anchor_generator.strides == [16]
    assert model.roi_head.bbox_roi_extractor.featmap_strides == [16]
    trains = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    assert len(trains) == 18  # weights and biases of conv3_1 to conv5_3
    assert min(int(name.split('.')[1]) for name in trains) == 6


class Watch(Hook):
    """Keeps the losses, and checks in each update that active slices moved and no others."""

    priority = 'VERY_LOW'

    def __init__(self, rule, targets, held):
        self.rule = rule
        self.targets = targets
        self.held = held
        self.losses = []

    def find_layers(self, runner):
        if isinstance(runner.optim_wrapper, WAUOptimWrapper):
            return runner.optim_wrapper.layers
        return find_layers(runner.model, self.targets)

    def before_train_iter(self, runner, *args, **kwargs):
        self.before = {
            name: [tensor.detach().clone() for tensor, _ in layer.tensors]
            for name, layer in self.find_layers(runner).items()
        }

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: torch.as_tensor(value).item() for name, value in outputs.items()})
        layers = self.find_layers(runner)
        assert len(layers) == self.held
        selected = self.rule.select(layers.values(), runner.iter)
        for (name, layer), active in zip(layers.items(), selected, strict=True):
            moved = [
                before.ne(tensor).movedim(dim, 0).reshape(layer.num_slices, -1).any(dim=1)
                for before, (tensor, dim) in zip(self.before[name], layer.tensors, strict=True)
            ]
            assert torch.equal(moved[0], active), name
            # A bias that is 0 may stay there.
            assert not any((of_bias & ~active).any() for of_bias in moved[1:]), name


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    """Drawn shapes laid out like COCO 2017, with each box as the outline of a mask."""
    root = tmp_path_factory.mktemp('place') / 'coco'
    make_coco(root)
    path = root / 'annotations' / 'instances_train2017.json'
    content = json.loads(path.read_text())
    for annotation in content['annotations']:
        left, top, width, height = annotation['bbox']
        right, bottom = left + width, top + height
        annotation['segmentation'] = [[left, top, right, top, right, bottom, left, bottom]]
    path.write_text(json.dumps(content))
    return root


def shrink(model):
    """No weights from the internet, few regions, and narrow linear layers."""
    for key, value in model.items():
        if key == 'init_cfg':
            model[key] = None
        elif key in ('nms_pre', 'max_per_img', 'fc_out_channels'):
            model[key] = 32
        elif key == 'sampler' and 'num' in value:
            value.num = 4
        elif isinstance(value, dict):
            shrink(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    shrink(item)


@pytest.fixture(scope='module')
def trained():
    """The losses of the configs that were trained, by what they are when made small."""
    return {}


def losses_of(name, rule, held, coco, work_dir, measures, trained):
    """Train two iterations; the losses of each."""
    config = load(name)
    (hook,) = config.custom_hooks
    watch = Watch(rule, hook.get('targets', ('backbone', 'neck')), held)
    if not measures:
        config.custom_hooks = []
    config.merge_from_dict({**SMALL, 'train_dataloader.dataset.data_root': str(coco)})
    for part, options in SMALLER.items():
        if part in name:
            config.merge_from_dict(options)
    shrink(config.model)
    # A schedule of twice the length does the same in two iterations: they train once.
    small = {key: value for key, value in config.to_dict().items() if key not in OTHERWISE}
    if repr((small, held)) in trained:
        return trained[repr((small, held))]
    config.work_dir = str(work_dir)
    config.experiment_name = config.visualizer.name = f'test_configs/{name}'
    runner = Runner.from_cfg(config)
    runner.register_hook(watch)
    runner.train()
    assert len(watch.losses) == 2
    assert all(math.isfinite(value) for losses in watch.losses for value in losses.values())
    trained[repr((small, held))] = watch.losses
    return watch.losses


@pytest.mark.slow
@pytest.mark.parametrize(('baseline', 'held'), HELD.items())
def test_trains(baseline, held, coco, trained, tmp_path):
    """Active slices move and held ones keep every bit, with momentum and weight decay."""
    first, second = losses_of(baseline, WAU(1.0), held, coco, tmp_path / 'baseline', False, trained)
    for arm, options in ARMS.items():
        options = {key: value for key, value in options.items() if key != 'axis'}
        rule = WAU(**options, seed=SMALL['randomness.seed'])
        measures = arm == 'wau' and baseline in MEASURED
        losses = losses_of(
            arm_of(baseline, arm), rule, held, coco, tmp_path / arm, measures, trained
        )
        # All arms see the same images, and start from the same weights.
        assert losses[0] == first
        assert losses[1] != second
        assert (tmp_path / arm / 'overlap.png').exists() == measures
    gc.collect()  # runners are parts of cycles, and hold some 100 MB each
