"""Compare the classes of a config with the categories of its annotation files, and its heads.

MMDetection never compares them. Its ``CocoDataset`` counts labels over those categories of the file
whose names are among the classes, in the order of the file. So with a class that the file does not
have, later labels mean other classes, the last output of the head belongs to no category, and its
first detection in a validation ends in ``list index out of range``.
"""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config

from mmwau.reporting.labels import name_some

from .data_check import Source

# Parts of a detector that classify objects, and those that such parts are in. Others may rightly
# have other numbers: a head of proposals has 1 class, a semantic one those of its map.
HEADS = ('bbox_head', 'mask_head', 'mask_iou_head', 'point_head', 'panoptic_head')
AROUND_HEADS = ('module', 'detector', 'roi_head')
MOST_NAMES = 100


def check_classes(cfg: Config, sources: Sequence[Source]) -> None:
    """Check that labels mean the same in all annotation files, in the config and in its heads.

    Raises:
        ValueError: If no class of the config is in a file, a class is misspelt, labels would mean
            other classes in another file, there are no boxes to train on, or a head has fewer
            classes than a file.
    """
    labelled = [source for source in sources if source.is_metric or source.file.boxes]
    for source in labelled:
        _check_names(source)
    _check_same_labels(labelled)
    _check_boxes([source for source in sources if source.stage == 'train'])
    _check_images(sources)
    for source in labelled:
        _check_heads(cfg, source)


def _labels(source: Source) -> list[str]:
    """Names of the labels, in their order: the categories of the file that are classes."""
    return [name for name in source.file.categories.values() if name in source.classes]


def _check_names(source: Source) -> None:
    labels, classes = _labels(source), source.classes
    missing = [name for name in classes if name not in labels]
    others = [name for name in source.file.categories.values() if name not in classes]
    plain = {_plain(name): name for name in others}
    meant = {
        name: plain[close[0]]
        for name in missing
        if (close := get_close_matches(_plain(name), plain, n=1, cutoff=0.85))
    }
    if len(set(labels)) < len(labels):
        wrong = 'the file has two categories of the same name'
    elif len(set(classes)) < len(classes):
        wrong = 'the config names a class twice'
    elif meant:
        wrong = '; '.join(
            f'the file has no category {name!r}, but {close!r}' for name, close in meant.items()
        )
    elif not labels:
        wrong = 'no class of the config is in the file, so that no box would be read'
    elif missing and source.is_metric:
        wrong = (
            f'the file has no category {name_some(list(map(repr, missing)), 5)}, so that the first '
            'detection of the last classes would stop the evaluation'
        )
    else:
        return
    raise ValueError(
        f'{source.setting}: the classes do not fit {source.file.path}: {wrong}. {_both(source)}. '
        'Write metainfo=dict(classes=...) of the data sets as the file has them, and their number '
        'as num_classes of the heads. A category may be without boxes'
    )


def _plain(name: str) -> str:
    """A name without what is spelt this way and that: capitals, spaces, signs between words."""
    return ''.join(letter for letter in name.casefold() if letter.isalnum()) or name


def _both(source: Source) -> str:
    """The classes of the config beside the categories of the file, for messages."""
    boxes = _with_boxes(source, source.file.categories)
    return (
        f'Classes of the config: {name_some(source.classes, MOST_NAMES)}. Categories of the file: '
        f'{name_some(boxes, MOST_NAMES) or "none"}'
    )


def _with_boxes(source: Source, ids: Iterable[int | str]) -> list[str]:
    return [f'{source.file.categories[id_]} ({source.file.boxes[id_]} boxes)' for id_ in ids]


def _check_same_labels(sources: Sequence[Source]) -> None:
    """Check that a label means the same class in all files that have it."""
    seen: dict[int, tuple[str, Source]] = {}
    for source in sources:
        for label, name in enumerate(_labels(source)):
            first, other = seen.setdefault(label, (name, source))
            if first != name:
                raise ValueError(
                    f'{other.setting} and {source.setting}: label {label} means {first!r} in '
                    f'{other.file.path}, and {name!r} in {source.file.path}, since labels are '
                    'counted in the order of the categories. Write "categories" of both in the '
                    f'same order: {_both(other)}. Those of the other one: '
                    f'{name_some(list(source.file.categories.values()), MOST_NAMES)}'
                )


def _check_boxes(sources: Sequence[Source]) -> None:
    """Check that there is something to train on; one file of several may be without."""
    reasons = []
    for source in sources:
        file = source.file
        if any(
            file.trained[id_] for id_, name in file.categories.items() if name in source.classes
        ):
            return
        if not file.has_annotations:
            reason = 'there is no "annotations" in it'
        elif not file.boxes:
            reason = 'its "annotations" are empty'
        else:
            reason = f'of its {file.boxes.total()} annotations none is left: ' + (
                _left_out(source) or 'they are crowds, or of other classes'
            )
        reasons.append(f'{source.setting}.ann_file: {file.path}: {reason}')
    if reasons:
        raise ValueError(f'There are no boxes to train on. {"; ".join(reasons)}')


def _left_out(source: Source) -> str:
    return ', '.join(f'{count} {reason}' for reason, count in source.file.left_out.items())


def _check_images(sources: Sequence[Source]) -> None:
    """Check that metrics know the images of their stage."""
    for metric in (source for source in sources if source.is_metric):
        files = [it.file for it in sources if it.stage == metric.stage and not it.is_metric]
        unknown = [file for file in files if not metric.file.images.keys() >= file.images.keys()]
        if unknown:
            raise ValueError(
                f'{metric.setting}.ann_file: {metric.file.path} does not have all images of the '
                f'data set, whose file is {unknown[0].path}. Name the same file in both'
            )


def _check_heads(cfg: Config, source: Source) -> None:
    count = len(_labels(source))
    for setting, outputs in _heads(cfg, source):
        if outputs < count:
            raise ValueError(
                f'{setting} is {outputs}, but {source.setting} has {count} classes in '
                f'{source.file.path}: {name_some(_labels(source), MOST_NAMES)}. Set it to {count}'
            )


def _heads(cfg: Config, source: Source) -> Iterator[tuple[str, int]]:
    """The heads that predict the classes of a data set, if any: see :func:`_find_heads`."""
    return iter(()) if source.by_name else _find_heads(cfg.get('model'), 'model')


def _find_heads(part: object, setting: str) -> Iterator[tuple[str, int]]:
    """The heads that classify objects: the setting, and how many classes it has."""
    if not isinstance(part, dict):
        return
    for name in (*AROUND_HEADS, *HEADS):
        inner = part.get(name)
        for index, head in enumerate(inner if isinstance(inner, (list, tuple)) else [inner]):
            where = f'{setting}.{name}' + f'[{index}]' * isinstance(inner, (list, tuple))
            yield from _find_heads(head, where)
            key = 'num_things_classes' if name == 'panoptic_head' else 'num_classes'
            if name not in HEADS or not isinstance(head, dict) or head.get('class_agnostic'):
                continue
            if isinstance(head.get(key), int):
                yield f'{where}.{key}', head[key]


def remarks(cfg: Config, sources: Sequence[Source]) -> list[str]:
    """What does no harm to a training, but may not be meant, in a sentence a file or head."""
    found: dict[Path, str] = {}
    for source in sources:
        found_here = [*_remarks_on_names(source), *_remarks_on_file(source, sources)]
        if found_here and source.file.path not in found:
            found[source.file.path] = (
                f'{source.setting}: {source.file.path}: {". ".join(found_here)}'
            )
    larger = {
        f'{setting} is {outputs}, and the config has {len(source.classes)} classes: the other '
        'outputs are never trained, and a detection by one of them stops the evaluation': None
        for source in sources
        for setting, outputs in _heads(cfg, source)
        if outputs > len(source.classes)
    }
    return [*found.values(), *larger]


def _remarks_on_names(source: Source) -> Iterator[str]:
    if not source.file.boxes:
        return
    labels, classes = _labels(source), source.classes
    missing = [name for name in classes if name not in labels]
    named = source.file.categories.items()
    others = [id_ for id_, name in named if name not in classes and source.file.boxes[id_]]
    if missing:
        yield f'there is no category {name_some(missing, MOST_NAMES)}'
    if others:
        boxes = name_some(_with_boxes(source, others), MOST_NAMES)
        yield f'background here, since no class of the config: {boxes}'
    if labels != list(classes[: len(labels)]):
        yield (
            'labels are counted in the order of the categories, which is not that of the classes: '
            'pictures, and those who use the checkpoint, get wrong names'
        )
    if missing or others or labels != list(classes):
        yield _both(source)


def _remarks_on_file(source: Source, sources: Sequence[Source]) -> Iterator[str]:
    file = source.file
    if file.left_out:
        yield f'MMDetection leaves annotations out: {_left_out(source)}'
    if source.stage != 'train' and not file.boxes:
        yield 'there are no boxes in it to evaluate with'
    if source.stage != 'train' and file.starts_at_zero:
        yield 'the id of an annotation is 0, which the evaluation takes for "not found"'
    images = [
        it.file.images.keys() for it in sources if it.stage == source.stage and not it.is_metric
    ]
    more = len(file.images.keys() - set().union(*images))
    if more:
        yield f'{more} of its images are not in the data set, and count as if nothing was found'
