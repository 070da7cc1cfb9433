"""Tell what is wrong with a config before anything is built from it."""

from collections.abc import Iterator
from os.path import isabs
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from .hook import WAUHook, wrong_wrapper
from .optim_wrapper import WAUMixin
from .targets import AXES, check_targets
from .wau import WAU, check_choice

# What to do about a folder that is missing, by its place.
ADVICE = {
    'data/demo': 'draw it with: python tools/make_demo_data.py',
    'data/bccd': (
        'convert BCCD with: python tools/dataset_converters/voc_to_coco.py BCCD_Dataset/BCCD '
        'data/bccd'
    ),
    'data/coco': (
        'put COCO 2017 there (annotations/, train2017/, val2017/), or link to it: '
        'ln -s /path/to/coco data/coco'
    ),
}


def check_train_config(cfg: Config) -> None:
    """Raise if a config can't be trained: WAU's settings first, then the data.

    Args:
        cfg: The config, its command-line options merged.

    Raises:
        TypeError: If a setting of WAU has the wrong type, or WAUHook comes without WAU's wrapper.
        ValueError: If a setting of WAU is out of its range or unknown.
        FileNotFoundError: If an annotation file or a data folder does not exist.
    """
    check_wau(cfg)
    check_data(cfg, ('train_dataloader', 'val_dataloader'))


def check_test_config(cfg: Config, checkpoint: str) -> None:
    """Raise if a config can't be tested with a checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint, an annotation file or a data folder does not exist.
    """
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f'The checkpoint {checkpoint} does not exist. Training writes one for each epoch '
            'into its work_dir, and its last name into work_dir/last_checkpoint'
        )
    check_data(cfg, ('test_dataloader',))


def check_wau(cfg: Config) -> None:
    """Check the settings of WAU in ``optim_wrapper`` and ``custom_hooks``.

    Raises:
        TypeError: See :func:`check_train_config`.
        ValueError: See :func:`check_train_config`.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    wrapper_type = _class_of(wrapper.get('type'), OPTIM_WRAPPERS)
    is_wau = isinstance(wrapper_type, type) and issubclass(wrapper_type, WAUMixin)
    if is_wau:
        names = ('update_ratio', 'sampler', 'hold', 'rescale')
        WAU(**{name: wrapper[name] for name in names if name in wrapper})
        if wrapper.get('seed') is not None:
            WAU(seed=wrapper['seed'])
        check_choice('axis', wrapper.get('axis', 'out'), AXES)
        check_targets(wrapper.get('targets', 'backbone'))
    hooks = [_class_of(hook['type'], HOOKS) for hook in cfg.get('custom_hooks') or []]
    if WAUHook in hooks and not is_wau:
        raise TypeError(wrong_wrapper(str(wrapper.get('type', 'OptimWrapper'))))


def check_data(cfg: Config, dataloaders: tuple[str, ...]) -> None:
    """Check that the annotation files and folders of data sets on this machine exist.

    Raises:
        FileNotFoundError: It names the data loader, the path, and what to do.
    """
    for name in dataloaders:
        for dataset in _datasets((cfg.get(name) or {}).get('dataset')):
            root = dataset.get('data_root') or ''
            prefixes = dataset.get('data_prefix') or {}
            if not isinstance(prefixes, dict):
                prefixes = {'img': prefixes}
            paths = [('annotation file', dataset.get('ann_file'))]
            paths += [('data folder', prefix) for prefix in prefixes.values()]
            for kind, path in paths:
                _check_path(name, kind, root, path)


def _check_path(dataloader: str, kind: str, root: str, path: str | None) -> None:
    if not isinstance(path, str) or not path or '://' in root + path:
        return
    place = Path(path) if isabs(path) else Path(root) / path
    if place.exists():
        return
    advice = next(
        (text for folder, text in ADVICE.items() if Path(root).as_posix() == folder),
        'put the data there',
    )
    raise FileNotFoundError(
        f'{dataloader}: the {kind} {place} does not exist (seen from {Path.cwd()}). To mend it, '
        f'{advice}; or name another place: --cfg-options {dataloader}.dataset.data_root=...'
    )


def _datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets in a config, those inside of wrappers (repeated, joined, ...) included."""
    if not isinstance(dataset, dict):
        return
    if 'ann_file' in dataset or 'data_prefix' in dataset:
        yield dataset
    yield from _datasets(dataset.get('dataset'))
    for part in dataset.get('datasets') or []:
        yield from _datasets(part)


def _class_of(name_or_class: str | type | None, registry) -> type | None:
    return registry.get(name_or_class) if isinstance(name_or_class, str) else name_or_class
