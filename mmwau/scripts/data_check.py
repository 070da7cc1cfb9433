"""What is wrong with the data that a config names, and their COCO annotation files, read."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmwau.datasets.coco_file import CocoFile, missing_images, read_coco
from mmwau.engine.type_names import type_name
from mmwau.reporting.labels import name_some

if TYPE_CHECKING:
    from mmdet.datasets import CocoDataset

# What to do about a folder that is missing, by its place.
ADVICE = {
    'data/demo/maps': (
        'remove data/demo, which was drawn before it had maps, and draw it again with: '
        'python tools/make_demo_data.py'
    ),
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
# Parts of CocoDataset: a class that has them unchanged reads annotation files as it does.
READERS = ('COCOAPI', 'load_data_list', 'parse_data_info')


class Source(NamedTuple):
    """A COCO annotation file in the part of a config that reads it.

    Attributes:
        stage: ``'train'``, ``'val'`` or ``'test'``.
        setting: The part of the config, such as ``'train_dataloader.dataset'``.
        file: What is in the file.
        classes: Classes of the data set; for a metric those of the first data set of its stage.
        is_metric: Whether the part is a metric.
        by_name: Whether the model gets the names of the classes with each image, as those of open
            vocabularies do, whose heads have no number of classes.
    """

    stage: str
    setting: str
    file: CocoFile
    classes: tuple[str, ...]
    is_metric: bool = False
    by_name: bool = False


def check_data(cfg: Config, stages: Sequence[str]) -> list[Source]:
    """Check that files and folders of data on this machine exist, and are what they should be.

    Data sets that are downloaded on first use are not checked.

    Returns:
        The COCO annotation files of the stages (``'train'``, ``'val'``, ``'test'``), read.

    Raises:
        FileNotFoundError: It names the part of the config, the path, and what to do.
        ValueError: If an annotation file of COCO form is not of that form, or lacks what the part
            of the config needs.
        TypeError: If the classes of a data set are one string.
    """
    files: dict[Path, CocoFile] = {}

    def read(setting: str, place: Path) -> CocoFile:
        if place not in files:
            try:
                files[place] = read_coco(place)
            except ValueError as error:
                raise ValueError(f'{setting}.ann_file: {error}') from error
        return files[place]

    sources = []
    for stage in stages:
        name = f'{stage}_dataloader'
        loader = cfg.get(name)
        for dataset in _datasets(loader.get('dataset') if isinstance(loader, dict) else None):
            root, setting = dataset.get('data_root') or '', f'{name}.dataset'
            prefixes = dataset.get('data_prefix') or {}
            if not isinstance(prefixes, dict):
                prefixes = {'img': prefixes}
            annotations = None
            if dataset.get('ann_file'):
                annotations = _check_path(f'{setting}.ann_file', root, dataset['ann_file'])
            else:
                _check_path(f'{setting}.data_root', '', root)
            for key, prefix in prefixes.items():
                _check_path(f'{setting}.data_prefix.{key}', root, prefix)
            if annotations is None:
                continue
            kind = _class_of_coco(dataset, cfg.get('default_scope'))
            classes = _classes(setting, kind, dataset) if kind else None
            if classes:
                file, by_name = read(setting, annotations), bool(dataset.get('return_classes'))
                source = Source(stage, setting, file, classes, by_name=by_name)
                _check_dataset(source, dataset, root, prefixes)
                sources.append(source)
        metrics = cfg.get(f'{stage}_evaluator') or []
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            if not isinstance(metric, dict) or not _is_here(metric):
                continue
            setting = f'{stage}_evaluator'
            annotations = _check_path(f'{setting}.ann_file', '', metric.get('ann_file'))
            first = next((it for it in sources if it.stage == stage), None)
            is_coco = type_name(metric.get('type')) == 'CocoMetric'
            if first and annotations and is_coco and not metric.get('format_only'):
                file = read(setting, annotations)
                source = first._replace(setting=setting, file=file, is_metric=True)
                _check_metric(source, metric)
                sources.append(source)
    return sources


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
        f'{setting}: {place} does not exist (seen from {Path.cwd()}). To fix it, {advice}; or '
        'name another place with --cfg-options, for all of dataset.data_root in the data loaders '
        'and ann_file in the evaluators'
    )


def _class_of_coco(dataset: dict, scope: str | None) -> 'type[CocoDataset] | None':
    """The class of a data set, if it reads its annotation file as CocoDataset does."""
    kind: Any = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_') or scope) as registry:
            kind = registry.get(kind)
    for base in kind.__mro__ if isinstance(kind, type) else ():
        if base.__name__ == 'CocoDataset' and base.__module__.startswith('mmdet.'):
            same = all(getattr(kind, name) is getattr(base, name) for name in READERS)
            return kind if same else None
    return None


def _classes(setting: str, kind: 'type[CocoDataset]', dataset: dict) -> tuple[str, ...] | None:
    """The classes that a data set will have: those of its ``metainfo``, or of its class.

    None if it finds them in another way.
    """
    classes = kind._load_metainfo(dataset.get('metainfo')).get('classes')
    if isinstance(classes, str):
        raise TypeError(
            f'{setting}.metainfo.classes should be a tuple of names, got {classes!r}. A tuple of '
            "one name needs a comma: classes=('cat',)"
        )
    return None if classes is None else tuple(classes)


def _check_dataset(source: Source, dataset: dict, root: str, prefixes: dict) -> None:
    """Check that a file has what the data set reads of it, and that its images exist."""
    file, where = source.file, f'{source.setting}.ann_file: {source.file.path}'
    if 'img' not in prefixes:
        raise ValueError(
            f'{source.setting}.data_prefix should have the folder of the images, as in '
            f"data_prefix=dict(img='train/'), got {prefixes}"
        )
    steps = [step for step in dataset.get('pipeline') or [] if isinstance(step, dict)]
    used = [id_ for id_, name in file.categories.items() if name in source.classes]
    without_mask = sum(file.without_mask[id_] for id_ in used)
    if without_mask and any(step.get('with_mask') for step in steps):
        raise ValueError(
            f'{where}: {without_mask} annotations have no "segmentation", which the pipeline loads '
            '(with_mask=True)'
        )
    # Some of the images are not used: an unknown part, or those that can't be read.
    if dataset.get('indices') is not None or any(step.get('ignore_empty') for step in steps):
        return
    names = file.images
    filters = dataset.get('filter_cfg') or {}
    if filters.get('filter_empty_gt') and not dataset.get('test_mode'):
        loaded = set().union(*(file.images_of.get(id_, ()) for id_ in used))
        names = {id_: name for id_, name in file.images.items() if id_ in loaded}
    missing = missing_images(names.values(), os.path.join(root, prefixes['img']))
    if missing:
        raise FileNotFoundError(
            f'{where}: {len(missing)} of its {len(names)} images are not in '
            f'{source.setting}.data_prefix.img: {name_some(list(map(str, missing)), 3)}'
        )


def _check_metric(source: Source, metric: dict) -> None:
    """Check that a file has what CocoMetric reads of it."""
    file, where = source.file, f'{source.setting}.ann_file: {source.file.path}'
    if file.without_crowd:
        raise ValueError(
            f'{where}: {file.without_crowd}. Evaluation needs it: 0 for a single object, 1 for a '
            'crowd'
        )
    kinds = metric.get('metric') or ()
    without_mask = sum(file.without_mask.values())
    if without_mask and 'segm' in ([kinds] if isinstance(kinds, str) else kinds):
        raise ValueError(
            f'{where}: {without_mask} annotations have no "segmentation", which metric=\'segm\' '
            'compares'
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
