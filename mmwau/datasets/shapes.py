"""The demo's set: plain shapes, drawn by the project itself, with boxes, outlines and masks."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from mmwau.files.whole import whole_folder
from mmwau.reporting.terminal import track

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
# How far their corners are from the middle.
RADII = {'circle': [1.0] * 64, 'square': [1.1] * 4, 'triangle': [1.15] * 3, 'star': [1.2, 0.5] * 5}
SMOOTHING = 4  # drawn this many times larger and then shrunk, so that edges are smooth
MAX_OVERLAP = 0.25  # of the smaller of two boxes


class Shape(NamedTuple):
    """A shape in an image.

    Attributes:
        category: Index into ``CLASSES``.
        box: Left, top, right, bottom, in pixels.
        outline: Its corners, shape (corners, 2), x and y in pixels.
    """

    category: int
    box: tuple[float, float, float, float]
    outline: np.ndarray


def make_shapes(
    root: str | Path,
    num_images: Mapping[str, int] | None = None,
    image_size: int = 160,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Draw the data set into a new folder.

    Each image has up to 6 shapes of five classes, of varied size, place, colour, rotation and
    overlap, on a background of varied colours and texture. The layout is COCO's:
    ``annotations/instances_<split>.json`` and ``<split>/<image>.jpg``. For segmentation there is a
    map of each image too, ``maps/<split>/<image>.png``: 0 is background, then the classes.

    Args:
        root: Folder to make. It appears when it is complete, or not at all.
        num_images: Number of images of each split, default ``{'train': 400, 'val': 100}``.
        image_size: Width and height in pixels, at least 64.
        seed: Seed; the same seed gives the same images. An image does not depend on how many
            others there are.
        progress: Whether to show how far it is.

    Raises:
        FileExistsError: If ``root`` exists and is not an empty folder.
        ValueError: If ``image_size`` is below 64.
    """
    root = Path(root)
    if image_size < 64:
        raise ValueError(f'image_size must be at least 64 pixels, got {image_size}')
    num_images = num_images or {'train': 400, 'val': 100}
    with whole_folder(root) as unfinished:
        for split, count in num_images.items():
            _make_split(unfinished, split, count, image_size, seed, progress)


def _make_split(root: Path, split: str, count: int, size: int, seed: int, progress: bool) -> None:
    (root / split).mkdir()
    (root / 'maps' / split).mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    ids = range(count)
    for image_id in track(ids, f'Drawing the split {split!r}') if progress else ids:
        # The split's name, as numbers, keeps the splits apart.
        image, shapes = draw_image(np.random.default_rng([seed, image_id, *split.encode()]), size)
        file_name = f'{image_id:06d}.jpg'
        image.save(root / split / file_name, quality=92)
        draw_map(shapes, size).save((root / 'maps' / split / file_name).with_suffix('.png'))
        images.append({'id': image_id, 'file_name': file_name, 'width': size, 'height': size})
        for category, (left, top, right, bottom), outline in shapes:
            width, height = right - left, bottom - top
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': category + 1,
                    'bbox': [round(float(x), 2) for x in (left, top, width, height)],
                    'area': round(float(width * height), 2),
                    'iscrowd': 0,
                    'segmentation': [[round(float(x), 2) for x in outline.ravel()]],
                }
            )
    categories = [{'id': index + 1, 'name': name} for index, name in enumerate(CLASSES)]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))


def draw_image(rng: Generator, size: int) -> tuple[Image.Image, list[Shape]]:
    """Draw one image.

    Args:
        rng: Source of all that varies.
        size: Width and height in pixels.

    Returns:
        The RGB image, and its shapes. A shape lies in the image as a whole; a later one may cover
        a part of an earlier one.
    """
    image = _background(rng, size)
    shapes: list[Shape] = []
    for _ in range(rng.integers(2, 7)):
        category = int(rng.integers(len(CLASSES)))
        points = _outline(CLASSES[category], rng.uniform(0, 2 * math.pi))
        points *= size * rng.uniform(0.07, 0.19)
        low, high = points.min(axis=0), points.max(axis=0)
        points += rng.uniform(1 - low, size - 1 - high)
        box = (*points.min(axis=0), *points.max(axis=0))
        if any(_overlap(box, other.box) > MAX_OVERLAP for other in shapes):
            continue
        _fill(image, points, box, rng)
        shapes.append(Shape(category, box, points))
    return image, shapes


def draw_map(shapes: Iterable[Shape], size: int) -> Image.Image:
    """The map of an image: 0 where the background is, the class plus 1 where a shape is seen."""
    labels = Image.new('L', (size, size))
    for category, _, outline in shapes:
        ImageDraw.Draw(labels).polygon([tuple(point) for point in outline], fill=category + 1)
    return labels


def _outline(name: str, angle: float) -> np.ndarray:
    """Corners of a shape of radius about 1 around the origin, shape (corners, 2)."""
    if name == 'cross':  # twelve corners of a plus sign
        half, arm = 0.36, 1.1
        quarter = np.array([[half, -arm], [half, -half], [arm, -half]])
        turns = [angle + turn * math.pi / 2 for turn in range(4)]
        return np.concatenate([quarter @ _rotation(turn) for turn in turns])
    radii = np.array(RADII[name])
    angles = angle + np.arange(len(radii)) * 2 * math.pi / len(radii)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _rotation(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


def _background(rng: Generator, size: int) -> Image.Image:
    """Two soft colours blended along a slope, with blotches and grain."""
    colours = rng.uniform(40, 215, size=(2, 3))
    slope = rng.normal(size=2)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    blend = (slope[0] * x + slope[1] * y) / np.abs(slope).sum() + 0.5
    coarse = rng.uniform(-25, 25, size=(8, 8)).astype(np.float32)
    blotches = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    pixels = colours[0] * blend[..., None] + colours[1] * (1 - blend[..., None])
    pixels += np.asarray(blotches)[..., None] + rng.normal(0, 5, size=(size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _fill(image: Image.Image, points: np.ndarray, box: tuple, rng: Generator) -> None:
    """Fill a shape with a colour that stands out from what is below it."""
    left, top, right, bottom = (int(value) for value in box)
    below = np.asarray(image.crop((left, top, right + 1, bottom + 1))).reshape(-1, 3).mean(axis=0)
    colour = rng.uniform(0, 255, size=3)
    while np.abs(colour - below).max() < 90:
        colour = rng.uniform(0, 255, size=3)
    mask = Image.new('L', (image.width * SMOOTHING, image.height * SMOOTHING))
    outline = [(float(x) * SMOOTHING, float(y) * SMOOTHING) for x, y in points]
    ImageDraw.Draw(mask).polygon(outline, fill=255)
    mask = mask.resize(image.size, Image.Resampling.BOX)
    image.paste(tuple(int(value) for value in colour), mask=mask)


def _overlap(box: tuple, other: tuple) -> float:
    """Area that two boxes share, as a fraction of the smaller one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (box, other)]
    return max(width, 0) * max(height, 0) / min(areas)
