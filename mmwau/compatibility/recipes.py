"""The recipes of OpenMMLab's projects: which to try, how to make them small, WAU added."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmwau.engine.package_configs import EXTRAS
from mmwau.scripts.launch import collate_as_mmpretrain
from mmwau.scripts.presets import use_wau

from .data import SIDE
from .exempt import EXEMPT, NOTHING
from .segmentation import SIZES as SIZES_OF_MODEL
from .substitutes import bert_folder, clip_file, drawn_dataset

WRAPPER = 'WAUOptimWrapper'
SEED = 3
UPDATE_RATIO = 0.5
UPDATES = 2
BATCH_SIZE = 2
# From small to large, as names of recipes have it; what has none of these stands in the middle.
WORDS = (
    'atto femto pico nano',
    'xxsmall xsmall tiny t 5m',
    'small s',
    '',
    'medium m base b',
    'large l x xlarge',
    'huge giant h g',
)
SMALL_RESNETS = r'(?:r|resnet)(18|34|50)(?![0-9])'
# Sizes of images, in transforms and batch augmentations of detectors.
SIZES = ('scale', 'scales', 'img_scale', 'crop_size', 'size', 'random_size_range', 'pad_size')
# At most so many regions, queries and layers.
FEW = {
    **dict.fromkeys(('num_queries', 'num_proposals', 'num_dn_queries', 'sos_token_num'), 20),
    **dict.fromkeys(('nms_pre', 'nms_post', 'max_per_img', 'max_num'), 50),
    'num': 16,  # regions that a sampler draws
    'num_hidden_layers': 2,  # of a language model
}
# What this tool can't draw, and the names in models and data sets that ask for it.
NOT_DRAWN = {
    'CIFAR, whose files are checked by their sums': 'CIFAR10 CIFAR100',
    'a language model of billions of weights; all that trains beside it is a linear layer': (
        'lang_encoder'
    ),
    'the trained weights of its teacher': 'teacher_pretrained',
    'the weights of a diffusion model': 'diffusion_cfg',
    'keypoints in three dimensions': 'Human36mDataset InterHand3DDataset',
}
# Of their recipes images are cut to one side.
CUT = ('mmdet', 'mmseg', 'mmrotate')
BERT = 'bert-base-uncased'
# Names of what is for other uses than training on a CPU.
OTHER_USES = ('deploy', 'delopy', 'ipu', 'tta')


class NotTriedError(Exception):
    """A recipe that this tool does not try, with the reason."""


@dataclass(frozen=True)
class Recipe:
    """A config that a project ships; its family is the folder."""

    project: str
    family: str
    path: Path

    @property
    def name(self) -> str:
        """What the record of the family is found by."""
        return f'{self.project}/{self.family}'


def installed_projects() -> list[str]:
    """The projects of :data:`EXTRAS` that are installed."""
    return [project for project in EXTRAS if find_spec(project)]


def zoo_of(project: str) -> Path:
    """Folder of the configs that a project brings along when it is installed.

    Raises:
        FileNotFoundError: If it has brought none.
    """
    folder = Path(import_module(project).__path__[0]) / '.mim' / 'configs'
    if not folder.is_dir():
        raise FileNotFoundError(
            f'{folder} does not exist: this {project} was installed without its configs. Install '
            f'the wheel of {project}, or run "pip install" without --editable'
        )
    return folder


def find_families(project: str) -> list[str]:
    """Folders of configs of a project, in alphabetical order.

    MMPose has folders for tasks, and in these those of methods, which have one for each data set.
    """
    zoo = zoo_of(project)
    found = [path.relative_to(zoo) for path in zoo.glob('*/*' if project == 'mmpose' else '*')]
    return sorted(str(path) for path in found if path.parts[0] != '_base_')


def choose_recipe(project: str, family: str) -> Recipe:
    """Choose the smallest recipe of a family that can be tried on drawn data.

    Raises:
        ValueError: If there is no such family.
        NotTriedError: If none of its recipes can be tried.
    """
    folder = zoo_of(project) / family
    if not folder.is_dir():
        raise ValueError(f'{project} has no configs in {folder}; got family={family!r}')
    reasons = []
    mark = EXEMPT.get(f'{project}/{family}', NOTHING).mark or family
    paths = folder.glob('**/*.py' if project == 'mmpose' else '*.py')
    for path in sorted(paths, key=lambda path: size_of(path.stem, mark)):
        try:
            why_not_tried(Config.fromfile(path, import_custom_modules=False))
            return Recipe(project, family, path)
        except NotTriedError as error:
            reasons.append(str(error))
        except Exception as error:  # a recipe can need what is not installed
            reasons.append(short(error))
    raise NotTriedError(reasons[0] if reasons else 'no recipes')


def size_of(name: str, mark: str) -> tuple:
    """A key that sorts names of recipes: those with the mark first, then by size of the network."""

    def plain(text: str) -> str:
        return re.sub('[^a-z0-9]', '', text.lower())

    words = re.split('[-_]', name.lower())
    sizes = [size for size, known in enumerate(WORDS) if set(words) & set(known.split())]
    size = 0 if re.search(SMALL_RESNETS, name) else min(sizes, default=3)
    is_other = bool(set(words) & set(OTHER_USES))
    # Names end in the data: plain COCO and ImageNet before what is derived from them.
    is_plain = name.endswith(('_coco', '_in1k'))
    numbers = tuple(map(int, re.findall('[0-9]+', name)))
    return is_other, plain(mark) not in plain(name), not is_plain, size, numbers, len(name), name


def why_not_tried(cfg: Config) -> None:
    """Raise if a recipe needs what this tool can't draw, or has no training.

    Raises:
        NotTriedError: If so; the message says why.
    """
    loader = cfg.get('train_dataloader')
    if 'model' not in cfg or not loader or loader.dataset.get('pipeline') == []:
        raise NotTriedError('no recipe with a training part')
    found = {key for key, _ in _entries(cfg.model)}
    found |= set(_values(cfg.train_dataloader.dataset, 'type'))
    for what, names in NOT_DRAWN.items():
        if found & set(names.split()):
            raise NotTriedError(f'needs {what}')


def add_wau(cfg: Config) -> None:
    """Add WAU by the three lines of the README; what a recipe has already stays beside them.

    Recipes with automatic mixed precision are trained in float32: MMEngine's wrapper for it refuses
    a machine without an accelerator.
    """
    for of_amp in ('loss_scale', 'dtype', 'use_fsdp'):
        cfg.optim_wrapper.pop(of_amp, None)
    cfg.optim_wrapper.type = 'OptimWrapper'
    use_wau(cfg, 'paper')
    cfg.optim_wrapper.update(type=WRAPPER, update_ratio=UPDATE_RATIO)


def shrink(cfg: Config, project: str, data: Path, side: int = SIDE) -> None:
    """Make a recipe small enough for a CPU, by rules that are the same for all recipes.

    No pretrained weights, SyncBN becomes BN, few regions and queries, small language models; images
    of :func:`.data.make_data`, those of detectors cut to ``side`` pixels; 2 images in a batch, no
    workers; a constant learning rate; two updates, of at most two iterations each; neither
    validation nor checkpoints. The rest stays: pipelines and wrappers of data sets, samplers,
    losses, optimizers and their parameter groups, clipping, EMA and other hooks.
    """
    visit(cfg.model, partial(_shrink_model, data=data))
    loader = cfg.train_dataloader
    visit(loader.dataset, partial(_drawn_name, data=data))
    if project in CUT:
        _cut(loader.dataset, SIZES, side)
        _cut(cfg.model.get('data_preprocessor', ConfigDict()), SIZES, side)
    if project == 'mmseg':
        _cut(cfg.model, SIZES_OF_MODEL, side)
    collate_as_mmpretrain(cfg)
    numbers = _values(cfg.model, 'num_classes')
    num_classes = min((one for one in numbers if isinstance(one, int)), default=80)
    drawn = partial(drawn_dataset, root=data, num_classes=num_classes, project=project)
    loader.dataset = _replace_files(loader.dataset, drawn)
    # A sampler that mixes sources has a batch of its own.
    if 'batch_size' not in (loader.get('sampler') or {}):
        loader.batch_size = BATCH_SIZE
    loader.update(num_workers=0, persistent_workers=False)
    for unused in ('prefetch_factor', 'pin_memory', 'num_batch_per_epoch'):
        loader.pop(unused, None)
    counts = min(cfg.optim_wrapper.get('accumulative_counts', 1), 2)
    cfg.optim_wrapper.accumulative_counts = counts
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=UPDATES * counts)
    cfg.param_scheduler = cfg.load_from = None
    cfg.resume = False
    for stage in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{stage}_{part}'] = None
    cfg.default_hooks.update(checkpoint=None, logger=dict(type='LoggerHook', interval=1))
    cfg.log_processor = dict(by_epoch=False)
    cfg.randomness = dict(seed=SEED)
    cfg.launcher = 'none'
    cfg.visualizer = None


def prepare(recipe: Recipe, data: Path) -> Config:
    """Read a recipe, make it small and add WAU."""
    cfg = Config.fromfile(recipe.path)
    exempt = EXEMPT.get(recipe.name, NOTHING)
    shrink(cfg, recipe.project, data, exempt.image_side)
    add_wau(cfg)
    cfg.merge_from_dict(exempt.settings)
    return cfg


def visit(part: object, change: Callable[[str, object], object]) -> None:
    """Let ``change(key, value)`` give every value in a part of a config anew, from above."""
    if isinstance(part, dict):
        for key in list(part):
            part[key] = change(key, part[key])
            visit(part[key], change)
    elif isinstance(part, (list, tuple)):
        for item in part:
            visit(item, change)


def short(error: BaseException) -> str:
    """An error in one line: its kind and the first line that it says.

    Paths of installed packages begin with the package, wherever it is.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = re.sub(r'/\S*/site-packages/', '', lines[0]) if lines else ''
    return f'{type(error).__name__}: {said[:200]}' if said else type(error).__name__


def _shrink_model(key: str, value: object, data: Path) -> object:
    if key == 'init_cfg' and (
        'Pretrained' in _values(value, 'type') or _values(value, 'checkpoint')
    ):
        return None
    if key in ('pretrained', 'teacher_ckpt'):
        return False if value is True else None
    if key == 'type' and value in ('SyncBN', 'MMSyncBN'):
        return 'BN'
    if key == 'teacher_config' and isinstance(value, str):
        return ConfigDict(model=Config.fromfile(zoo_of('mmdet').parent / value).model)
    if key in FEW and isinstance(value, int):
        return min(value, FEW[key])
    return _drawn_name(key, value, data)


def _drawn_name(key: str, value: object, data: Path) -> object:
    """A network with random weights for one that is asked for by its name."""
    if value == BERT:
        return bert_folder(data)
    return clip_file(data) if key == 'tokenizer_path' else value


def _cut(part: object, names: Sequence[str], side: int) -> None:
    visit(part, lambda key, value: _at_most(value, side) if key in names else value)


def _at_most(value: object, limit: int) -> object:
    """Integers of a size, or of a list of sizes, cut at a limit."""
    if isinstance(value, (list, tuple)):
        return type(value)(_at_most(item, limit) for item in value)
    return min(value, limit) if isinstance(value, int) and not isinstance(value, bool) else value


def _values(part: object, key: str) -> list:
    """All that stands under a key somewhere in a part of a config."""
    return [value for at, value in _entries(part) if at == key]


def _entries(part: object) -> Iterator[tuple[str, object]]:
    """The keys and values of all dicts in a part of a config."""
    if isinstance(part, dict):
        yield from part.items()
        part = list(part.values())
    for inner in part if isinstance(part, (list, tuple)) else ():
        yield from _entries(inner)


def _replace_files(dataset: dict, drawn: Callable[[dict], dict]) -> dict:
    """Replace the data sets made of files, inside of what wraps, repeats or joins them."""
    if 'dataset' in dataset:
        return {**dataset, 'dataset': _replace_files(dataset['dataset'], drawn)}
    if 'datasets' in dataset:
        inner = [_replace_files(each, drawn) for each in dataset['datasets']]
        return {**dataset, 'datasets': inner}
    return drawn(dataset)
