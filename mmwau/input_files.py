"""Tell what is wrong with the files and folders that a config names."""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config

from .type_names import type_name

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
    'data/cifar10': (
        'convert folders of images with: python tools/dataset_converters/'
        'cifar_folders_to_batches.py FOLDERS data/cifar10'
    ),
}
# Data sets of MMPreTrain that fetch themselves on first use.
FETCHED = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST')
# A COCO annotation file has these lists at its top.
COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"')


def check_data(cfg: Config, stages: Sequence[str]) -> None:
    """Check that the annotation files and folders of data sets on this machine exist.

    Data sets that fetch themselves on first use are left alone.

    Args:
        cfg: The config.
        stages: Of ``'train'``, ``'val'`` and ``'test'`` those to check.

    Raises:
        FileNotFoundError: It names the part of the config, the path, and what to do.
        ValueError: If an annotation file of COCO form is not of that form.
    """
    for stage in stages:
        name = f'{stage}_dataloader'
        loader = cfg.get(name)
        for dataset in _datasets(loader.get('dataset') if isinstance(loader, dict) else None):
            root = dataset.get('data_root') or ''
            if not dataset.get('ann_file'):
                _check_path(f'{name}.dataset.data_root', '', root)
                continue
            prefixes = dataset.get('data_prefix') or {}
            if not isinstance(prefixes, dict):
                prefixes = {'img': prefixes}
            annotations = _check_path(f'{name}.dataset.ann_file', root, dataset['ann_file'])
            if annotations and type_name(dataset.get('type')) == 'CocoDataset':
                _check_coco(
                    f'{name}.dataset.ann_file', annotations, dataset.get('test_mode', False)
                )
            for key, prefix in prefixes.items():
                _check_path(f'{name}.dataset.data_prefix.{key}', root, prefix)
        metrics = cfg.get(f'{stage}_evaluator') or []
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            if isinstance(metric, dict) and _is_here(metric):
                _check_path(f'{stage}_evaluator.ann_file', '', metric.get('ann_file'))


def _check_path(setting: str, root: str, path: str | None) -> Path | None:
    """Return the place of a file on this machine, which exists, or None if it is elsewhere."""
    if not isinstance(path, str) or not path or '://' in root + path:
        return None
    place = Path(root) / path
    if place.exists():
        return place
    advice = next(
        (text for folder, text in ADVICE.items() if place.is_relative_to(folder)),
        'put the data there',
    )
    raise FileNotFoundError(
        f'{setting}: {place} does not exist (seen from {Path.cwd()}). To mend it, {advice}; or '
        'name another place with --cfg-options, for all of dataset.data_root in the data loaders '
        'and ann_file in the evaluators'
    )


def _check_coco(setting: str, path: Path, test_mode: bool) -> None:
    """Look for the parts of a COCO file without parsing it: COCO's own has half a gigabyte."""
    keys = [key for key in COCO_KEYS if not (test_mode and key == b'"annotations"')]
    missing = [key.decode() for key in keys]
    if path.is_file() and path.stat().st_size:
        with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            whole = text[:100].lstrip()[:1] == b'{' and text[-100:].rstrip()[-1:] == b'}'
            missing = [key.decode() for key in keys if text.find(key) < 0]
        if whole and not missing:
            return
    raise ValueError(
        f'{setting}: {path} is not a COCO annotation file, a JSON object with "images", '
        f'"annotations" and "categories"; '
        + (f'there is no {", ".join(missing)}' if missing else 'it does not end where it should')
    )


def _is_here(part: dict) -> bool:
    """Whether files of a data set or metric are read from this machine's own disk."""
    return (part.get('backend_args') or {}).get('backend', 'local') == 'local'


def _datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets made of files, those inside of wrappers (repeated, joined) included."""
    if not isinstance(dataset, dict):
        return
    of_files = dataset.get('ann_file') or dataset.get('data_root')
    if of_files and _is_here(dataset) and type_name(dataset.get('type')) not in FETCHED:
        yield dataset
    yield from _datasets(dataset.get('dataset'))
    for part in dataset.get('datasets') or []:
        yield from _datasets(part)
