"""COCO annotation files: what is in them, and what is wrong with them by themselves."""

import gc
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mmwau.reporting.labels import name_some

ID, NUMBER = (int, float, str), (int, float)
# What MMDetection reads of each entry.
KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    'images': {'id': ID, 'file_name': str, 'width': NUMBER, 'height': NUMBER},
    'annotations': {'id': ID, 'image_id': ID, 'category_id': ID},
    'categories': {'id': ID, 'name': str},
}
# What it reads of the annotations that are not marked with "ignore", and how to make it.
BOX = 'the box as [left, top, width, height] in pixels'
AREA = 'the area in pixels (width × height if there are only boxes)'


@dataclass
class CocoFile:
    """What a COCO annotation file has, as MMDetection will read it."""

    path: Path
    categories: dict[int | str, str]  # names by id, in the order of the file
    images: dict[int | str, str]  # file names by id
    images_of: dict[int | str, set[int | str]]  # ids of those with a category, by its id
    boxes: Counter[int | str]  # annotations by id of the category
    trained: Counter[int | str]  # those that are trained on: neither crowds, nor left out
    without_mask: Counter[int | str]  # those trained on that have no segmentation
    left_out: dict[str, int]  # annotations that MMDetection leaves out, by the reason
    without_crowd: str  # how many annotations lack "iscrowd", in words; '' if none does
    has_annotations: bool  # whether there is such a list, which files of images to test on lack
    starts_at_zero: bool  # whether the id of an annotation is 0


def read_with_marks() -> None:
    """Let pycocotools read annotation files as UTF-8 with or without a byte order mark.

    By itself it reads them in the encoding of the locale, and stops at a mark, which editors and
    scripts on Windows write.
    """
    try:
        from pycocotools import coco
    except ImportError:  # nothing reads such files
        return
    coco.open = partial(open, encoding='utf-8-sig')


def read_coco(path: Path) -> CocoFile:
    """Read an annotation file.

    Raises:
        ValueError: If it is not of COCO form, or what is in it contradicts itself. It names the
            file, and the entries.
    """
    # Millions of new objects, none of them garbage, take most of their time to be looked through.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _read_coco(path)
    finally:
        if collects:
            gc.enable()


def _read_coco(path: Path) -> CocoFile:
    content = load_coco(path)
    images = _entries(path, content, 'images')
    categories = _entries(path, content, 'categories')
    has_annotations = 'annotations' in content
    annotations = _entries(path, content, 'annotations') if has_annotations else []
    del content  # its other parts
    names = {entry['id']: entry['name'] for entry in categories}
    _check_categories(path, annotations, names)
    sizes = {entry['id']: (entry['width'], entry['height']) for entry in images}
    counted = [entry for entry in annotations if not entry.get('ignore')]
    placed = [entry for entry in counted if entry['image_id'] in sizes]
    kept, left_out = _select(path, placed, sizes)
    left_out['of images that the file does not have'] = len(counted) - len(placed)
    images_of = defaultdict(set)
    for entry in annotations:
        images_of[entry['category_id']].add(entry['image_id'])
    return CocoFile(
        path=path,
        categories=names,
        images={entry['id']: entry['file_name'] for entry in images},
        images_of=dict(images_of),
        boxes=_by_category(annotations),
        trained=_by_category(entry for entry in kept if not entry.get('iscrowd')),
        without_mask=_by_category(entry for entry in kept if not entry.get('segmentation')),
        left_out={reason: count for reason, count in left_out.items() if count},
        without_crowd=_lacking(annotations, 'annotations', 'iscrowd', ID),
        has_annotations=has_annotations,
        starts_at_zero=any(entry['id'] == 0 for entry in annotations),
    )


def _by_category(entries: Iterable[dict]) -> Counter[int | str]:
    return Counter(entry['category_id'] for entry in entries)


def missing_images(names: Iterable[str], folder: str) -> list[Path]:
    """Images that do not exist.

    Folders are listed instead of asking for each file: a data set may have hundreds of thousands.

    Args:
        names: File names in an annotation file; addresses (``https://...``) are not checked.
        folder: Where they are.
    """
    by_folder = defaultdict(set)
    for name in names:
        place = os.path.join(folder, name)
        if '://' not in place:
            parent, base = os.path.split(place)
            by_folder[parent].add(base)
    missing = []
    for parent, expected in sorted(by_folder.items()):
        found = os.listdir(parent or '.') if os.path.isdir(parent or '.') else []
        missing += [Path(parent, name) for name in sorted(expected.difference(found))]
    return missing


def load_coco(path: Path) -> dict:
    """The content of an annotation file as it is.

    Raises:
        ValueError: If it is no JSON object with ``images`` and ``categories``.
    """
    form = (
        f'{path} is not a COCO annotation file, a JSON object with "images", "annotations" and '
        '"categories"'
    )
    try:
        content = json.loads(path.read_bytes().decode('utf-8-sig'))
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise ValueError(f'{form}; it is truncated, or no JSON in UTF-8: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{form}; it is a {type(content).__name__}')
    missing = [f'"{key}"' for key in ('images', 'categories') if key not in content]
    if missing:
        raise ValueError(f'{form}; there is no {", ".join(missing)}')
    return content


def _entries(path: Path, content: dict, part: str) -> list[dict]:
    entries = content[part]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f'{path}: "{part}" should be a list of JSON objects')
    for key, kind in KEYS[part].items():
        if lacking := _lacking(entries, part, key, kind):
            raise ValueError(f'{path}: {lacking}')
    _check_unique(path, part, entries)
    return entries


def _lacking(entries: list[dict], part: str, key: str, kind: type | tuple[type, ...]) -> str:
    """How many entries have no value of a kind for a key, in words; '' if all have."""
    wrong = [index for index, entry in enumerate(entries) if not isinstance(entry.get(key), kind)]
    if not wrong:
        return ''
    value = entries[wrong[0]].get(key)
    has = '' if value is None else f', which has {value!r}'
    return (
        f'{len(wrong)} of {len(entries)} {part} have no usable "{key}", the first of them '
        f'{part}[{wrong[0]}]{has}'
    )


def _check_unique(path: Path, part: str, entries: list[dict]) -> None:
    seen: dict[object, dict] = {}
    for entry in entries:
        other = seen.setdefault(entry['id'], entry)
        # An image that is listed twice is read as one.
        again = part == 'images' and other['file_name'] == entry['file_name']
        if other is not entry and not again:
            raise ValueError(
                f'{path}: two {part} have the id {entry["id"]!r}. Ids have to be unique'
            )


def _check_categories(path: Path, annotations: list[dict], names: dict) -> None:
    unknown = _by_category(entry for entry in annotations if entry['category_id'] not in names)
    if unknown:
        ids = [f'{id_!r} ({count} annotations)' for id_, count in unknown.items()]
        known = [f'{id_!r} ({name})' for id_, name in names.items()]
        raise ValueError(
            f'{path}: no category has the id {name_some(ids, 5)}. These objects would be trained '
            f'on as background. The categories are {name_some(known, 20) or "none"}. Add the '
            'missing ones (their classes need not be in the config), or correct "category_id"'
        )


def _select(path: Path, entries: list[dict], sizes: dict) -> tuple[list[dict], dict[str, int]]:
    """Annotations that MMDetection does not leave out, and how many it does for which reason."""
    if not entries:
        return [], {}
    boxes = _numbers(path, entries, 'bbox', (len(entries), 4), BOX)
    areas = _numbers(path, entries, 'area', (len(entries),), AREA)
    infinite = np.isinf(boxes).any(axis=1)
    if infinite.any():
        first = entries[int(infinite.argmax())]
        raise ValueError(f'{path}: the box of annotation {first["id"]!r} is {first["bbox"]}')
    limits = np.array([sizes[entry['image_id']] for entry in entries], float)
    starts, spans = boxes[:, :2], boxes[:, 2:]
    inside = np.minimum(starts + spans, limits) - np.maximum(starts, 0)
    # Comparisons with NaN are False: such a box has no size.
    has_size = (inside > 0).all(axis=1) & (spans >= 1).all(axis=1)
    has_area = areas > 0
    left_out = {
        'without a size of 1 pixel in their image': int((~has_size).sum()),
        'with an "area" of 0': int((has_size & ~has_area).sum()),
    }
    keep = has_size & has_area
    return [entry for entry, kept in zip(entries, keep, strict=True) if kept], left_out


def _numbers(
    path: Path, entries: list[dict], key: str, shape: tuple[int, ...], meaning: str
) -> np.ndarray:
    """The values of a key as an array, float64 of ``shape``."""
    values = [entry.get(key) for entry in entries]
    array = _as_array(values, shape)
    if array is not None:
        return array
    wrong = [index for index, value in enumerate(values) if _as_array(value, shape[1:]) is None]
    first = entries[wrong[0]]
    has = '' if first.get(key) is None else f', which has {first[key]!r}'
    raise ValueError(
        f'{path}: {len(wrong)} of {len(entries)} annotations have no usable "{key}", the first of '
        f'them that with the id {first["id"]!r}{has}. It should be {meaning}'
    )


def _as_array(value: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """A value as float64, or None if it is not numbers of this shape."""
    try:
        array = np.array(value)
    except ValueError:  # lists of different lengths
        return None
    return array.astype(float) if array.shape == shape and array.dtype.kind in 'iuf' else None
