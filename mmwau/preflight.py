"""Tell what is wrong with a config before anything is built from it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import HOOKS, OPTIM_WRAPPERS

from .hook import WAUHook, wrong_wrapper
from .optim_wrapper import WAUMixin, sharded
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
SHARDED_TYPES = (
    'FSDPStrategy',
    'DeepSpeedStrategy',
    'ColossalAIStrategy',
    'MMFullyShardedDataParallel',
)


def check_train_config(cfg: Config) -> None:
    """Raise if a config can't be trained: WAU's settings first, then the data.

    Args:
        cfg: The config, its command-line options merged.

    Raises:
        TypeError: If a setting of WAU has the wrong type, or WAUHook comes without WAU's wrapper.
        ValueError: If a setting of WAU is out of its range or unknown.
        FileNotFoundError: If an annotation file, a data folder or the checkpoint to start from
            does not exist.
        NotADirectoryError: If the work_dir is a file.
        PermissionError: If the work_dir can't be written to.
    """
    check_wau(cfg)
    check_work_dir(cfg.work_dir)
    check_checkpoint(_start_of(cfg))
    check_data(cfg, ('train', 'val'))


def check_test_config(cfg: Config) -> None:
    """Raise if a config can't be tested.

    Raises:
        FileNotFoundError: If the checkpoint, an annotation file or a data folder does not exist.
    """
    check_checkpoint(cfg.get('load_from'))
    check_data(cfg, ('test',))


def check_checkpoint(path: str | None) -> None:
    """Check that a checkpoint on this machine exists.

    Raises:
        FileNotFoundError: If it does not.
    """
    if path is None or '://' in path or Path(path).is_file():
        return
    beside = sorted(Path(path).parent.glob('*.pth'))
    raise FileNotFoundError(
        f'The checkpoint {path} does not exist. Checkpoints beside it: '
        f'{", ".join(other.name for other in beside) or "none"}'
    )


def check_work_dir(work_dir: str) -> None:
    """Check that logs and checkpoints can be written.

    Raises:
        NotADirectoryError: If the work_dir, or a folder above it, is a file.
        PermissionError: If it can't be written to.
    """
    path = Path(work_dir)
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f'work_dir {path}: {existing} is a file. Name another --work-dir')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f'work_dir {path}: {existing} can not be written to. Name another --work-dir'
        )


def _start_of(cfg: Config) -> str | None:
    """The checkpoint that training starts from, or None."""
    last = Path(cfg.work_dir) / 'last_checkpoint'
    if cfg.get('resume') and cfg.get('load_from') is None and last.is_file():
        return last.read_text().strip()
    return cfg.get('load_from')


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
        names = ('update_ratio', 'sampler', 'hold', 'rescale', 'min_active')
        WAU(**{name: wrapper[name] for name in names if name in wrapper})
        if wrapper.get('seed') is not None:
            WAU(seed=wrapper['seed'])
        check_choice('axis', wrapper.get('axis', 'out'), AXES)
        check_targets(wrapper.get('targets', 'backbone'))
        for part in ('strategy', 'model_wrapper_cfg'):
            kind = (cfg.get(part) or {}).get('type')
            kind = kind if isinstance(kind, str) or kind is None else kind.__name__
            if kind in SHARDED_TYPES:
                raise TypeError(sharded(kind))
    hooks = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if isinstance(hook, dict) and _class_of(hook.get('type'), HOOKS) is WAUHook
    ]
    if hooks and not is_wau:
        raise TypeError(wrong_wrapper(str(wrapper.get('type', 'OptimWrapper'))))
    if len(hooks) > 1:
        raise ValueError('WAUHook is in custom_hooks more than once; keep one of them')
    for hook in hooks:
        WAUHook(**{name: value for name, value in hook.items() if name not in ('type', 'priority')})


def check_data(cfg: Config, stages: Sequence[str]) -> None:
    """Check that the annotation files and folders of data sets on this machine exist.

    Data sets without an annotation file are left alone: some fetch themselves on first use.

    Args:
        cfg: The config.
        stages: Of ``'train'``, ``'val'`` and ``'test'`` those to check.

    Raises:
        FileNotFoundError: It names the part of the config, the path, and what to do.
    """
    for stage in stages:
        name = f'{stage}_dataloader'
        for dataset in _datasets((cfg.get(name) or {}).get('dataset')):
            root = dataset.get('data_root') or ''
            prefixes = dataset.get('data_prefix') or {}
            if not isinstance(prefixes, dict):
                prefixes = {'img': prefixes}
            _check_path(f'{name}.dataset.ann_file', root, dataset['ann_file'])
            for key, prefix in prefixes.items():
                _check_path(f'{name}.dataset.data_prefix.{key}', root, prefix)
        metrics = cfg.get(f'{stage}_evaluator') or []
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            if isinstance(metric, dict) and _is_here(metric):
                _check_path(f'{stage}_evaluator.ann_file', '', metric.get('ann_file'))


def _check_path(setting: str, root: str, path: str | None) -> None:
    if not isinstance(path, str) or not path or '://' in root + path:
        return
    place = Path(root) / path
    if place.exists():
        return
    advice = next(
        (text for folder, text in ADVICE.items() if place.is_relative_to(folder)),
        'put the data there',
    )
    raise FileNotFoundError(
        f'{setting}: {place} does not exist (seen from {Path.cwd()}). To mend it, {advice}; or '
        'name another place with --cfg-options, for all of dataset.data_root in the data loaders '
        'and ann_file in the evaluators'
    )


def _is_here(part: dict) -> bool:
    """Whether files of a data set or metric are read from this machine's own disk."""
    return (part.get('backend_args') or {}).get('backend', 'local') == 'local'


def _datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets with annotations, those inside of wrappers (repeated, joined) included."""
    if not isinstance(dataset, dict):
        return
    if dataset.get('ann_file') and _is_here(dataset):
        yield dataset
    yield from _datasets(dataset.get('dataset'))
    for part in dataset.get('datasets') or []:
        yield from _datasets(part)


def _class_of(name_or_class: str | type | None, registry) -> type | None:
    return registry.get(name_or_class) if isinstance(name_or_class, str) else name_or_class
