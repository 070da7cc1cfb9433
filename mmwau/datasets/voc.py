"""Detection sets in Pascal VOC form: which files belong together, and what is in them."""

import math
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from PIL import Image

from mmwau.reporting.labels import name_some

IMAGES = ('.jpg', '.jpeg', '.jfif', '.png', '.bmp', '.webp', '.tif', '.tiff')
ANNOTATIONS = ('.xml',)


class Box(NamedTuple):
    """An object: its class, whether it is marked difficult, its corners in VOC's pixels."""

    label: str
    difficult: bool
    corners: tuple[float, float, float, float]


class Annotation(NamedTuple):
    """An XML file.

    ``file_name`` and ``size`` (width, height) are what it says of its image, None where it says
    nothing.
    """

    path: Path
    boxes: list[Box]
    file_name: str | None
    size: tuple[int, int] | None


def find_files(folder: Path, suffixes: Container[str]) -> dict[str, list[Path]]:
    """Files below a folder by name.

    Args:
        folder: The folder; folders in it are looked through as well, hidden ones left out.
        suffixes: Endings of the files to find, in lower case.

    Returns:
        For each name, which is the path below ``folder`` without the suffix and with forward
        slashes, the files of that name, in alphabetical order.
    """
    found = defaultdict(list)
    for path in sorted(folder.rglob('*')):
        place = path.relative_to(folder)
        hidden = any(part.startswith('.') for part in place.parts)
        if path.suffix.lower() in suffixes and path.is_file() and not hidden:
            found[place.with_suffix('').as_posix()].append(path)
    return dict(found)


def read_image_set(path: Path, known: Container[str]) -> list[str]:
    """Names that an image set lists.

    Args:
        path: The text file.
        known: Names of the annotations that exist.

    Raises:
        FileNotFoundError: If it does not exist, or lists what is not in ``known``.
        ValueError: If it is not UTF-8 text, or lists nothing, or a name twice.
    """
    if not path.is_file():
        sets = ', '.join(sorted(other.stem for other in path.parent.glob('*.txt')))
        raise FileNotFoundError(f'{path} does not exist; the image sets are: {sets}')
    try:
        text = path.read_text('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8 text: {error}. Save it as UTF-8') from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise ValueError(f'{path} lists no images')
    # Sets of one class have a second column, which says whether the image has objects of it. A name
    # may have spaces as well, so the column counts as one only where lines as a whole are no names.
    columns = [name.rsplit(maxsplit=1) for name in names]
    if any(name not in known for name in names) and all(
        len(parts) == 2 and parts[1] in ('-1', '0', '1') for parts in columns
    ):
        names = [parts[0] for parts in columns]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise FileNotFoundError(
            f'{path} lists {name_some(unknown, 5)}, but there is no such annotation: '
            f'{unknown[0]}.xml does not exist'
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f'{path} lists {name_some(twice, 5)} more than once; keep one line of each'
        )
    return names


def split_names(names: Sequence[str], ratios: Sequence[float], seed: int) -> list[list[str]]:
    """Split names at random.

    Args:
        names: The names; their order does not matter.
        ratios: Fraction of the names that each part gets, in (0, 1], together 1.
        seed: Seed; the same seed gives the same parts.

    Returns:
        The parts, each in alphabetical order, none of them empty.

    Raises:
        ValueError: If the fractions are not of that kind, or a part would be empty.
    """
    if not all(0 < ratio <= 1 for ratio in ratios) or not math.isclose(sum(ratios), 1):
        raise ValueError(
            f'--split-ratio must be fractions above 0 that add up to 1, got '
            f'{" ".join(map(str, ratios))}'
        )
    names = sorted(names)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    ends = [round(end * len(order)) for end in np.cumsum(ratios)]
    parts = [sorted(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    if not all(parts):
        raise ValueError(
            f'--split-ratio {" ".join(map(str, ratios))} leaves a split without images: there are '
            f'{len(order)}'
        )
    return parts


def find_image(annotation: Annotation, name: str, images: dict[str, list[Path]]) -> Path:
    """The image of an annotation: the one of its name.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several, and the annotation names none of them.
    """
    found = images.get(name, [])
    if len(found) > 1:
        found = [path for path in found if path.name == annotation.file_name] or found
    if not found:
        raise FileNotFoundError(
            f'there is no image for {annotation.path}: {name}.* does not exist among the images'
        )
    if len(found) > 1:
        raise ValueError(
            f'{annotation.path} fits {" and ".join(map(str, found))}, and its <filename> is '
            f'{annotation.file_name!r}. Keep one of them, or name it there'
        )
    return found[0]


def read_annotation(path: Path) -> Annotation:
    """Read an XML file.

    Raises:
        ValueError: If it is not a VOC annotation, or a coordinate is not a finite number.
    """
    try:
        root = ET.parse(path).getroot()
        if root.tag != 'annotation':
            raise ValueError(f'it is a <{root.tag}>, not an <annotation>')
        boxes = [_read_box(node) for node in root.iter('object')]
        width, height = (int(root.findtext(f'size/{side}') or 0) for side in ('width', 'height'))
        file_name = (root.findtext('filename') or '').strip() or None
    except (ET.ParseError, ValueError) as error:
        raise ValueError(f'{path} is not a VOC annotation: {error}') from error
    return Annotation(path, boxes, file_name, (width, height) if width and height else None)


def _read_box(node: ET.Element) -> Box:
    label = _text(node, 'name').strip()
    if len(node.findall('bndbox')) > 1:
        raise ValueError(f'an object of class {label!r} has more than one <bndbox>')
    corners = {
        corner: float(_text(node, f'bndbox/{corner}'))
        for corner in ('xmin', 'ymin', 'xmax', 'ymax')
    }
    for corner, value in corners.items():
        if not math.isfinite(value):
            raise ValueError(f'{corner} of an object of class {label!r} is {value}')
    left, top, right, bottom = corners.values()
    difficult = int(node.findtext('difficult') or 0) > 0
    return Box(label, difficult, (left, top, right, bottom))


def _text(node: ET.Element, place: str) -> str:
    text = node.findtext(place)
    if text is None:
        raise ValueError(f'an object has no <{place}>')
    return text


def loaded_size(path: Path, annotated: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height of an image as training sees it, which turns photographs by their EXIF tag.

    Args:
        path: The image.
        annotated: Width and height in the image's annotation, None if it has none.

    Raises:
        ValueError: If the image can't be read as a whole, or its boxes were drawn on the image as
            it is stored while training sees it turned.
    """
    try:
        with Image.open(path) as image:
            stored = image.size
            image.load()  # OpenCV fills what a truncated file lacks with grey
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{path} can not be read: {error}') from error
    pixels = mmcv.imread(path)
    if pixels is None:
        raise ValueError(f'{path} can not be read by OpenCV, which training reads images with')
    loaded = pixels.shape[1], pixels.shape[0]
    if annotated == stored != loaded:
        raise ValueError(
            f'{path} is stored as {stored[0]}×{stored[1]} pixels, which its annotation has as the '
            f'size too, but training turns it to {loaded[0]}×{loaded[1]} as its EXIF tag asks: its '
            'boxes would be in other places. Remove the tag (exiftool -Orientation= FILE), or '
            'annotate the upright image'
        )
    return loaded
