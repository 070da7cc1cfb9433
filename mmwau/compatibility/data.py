"""Drawn data for recipes of any kind: boxes, masks, proposals, panoptic maps, classes, captions."""

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.random import default_rng
from PIL import Image, ImageDraw

from mmwau.datasets.shapes import CLASSES, make_shapes
from mmwau.files.whole import whole_folder

from .rotated import draw_rotated
from .segmentation import draw_foreground
from .videos import box_mask, draw_crops, draw_videos

SIDE = 128
NUM_IMAGES = 8
# As many as COCO's panoptic data have, on which the recipes' networks are built.
NUM_THINGS, NUM_STUFF = 80, 53
DIGIT_SIDE = 28  # of MNIST's images
PROPOSALS = 20  # of an image


def make_data(root: str | Path) -> Path:
    """Draw shapes into a new folder, in the layouts that recipes read; return the folder.

    ``detection/`` is laid out like COCO, with the box of each shape as its mask too, once with the
    classes of the shapes and once as ``objects`` of one class. It has a semantic map for each image
    (0 is background, then the classes), panoptic maps, proposals, captions, and rectangles around
    shapes. ``classification/`` has the same images in two folders, one for each class; ``mnist/``
    has them small and grey. ``videos/`` and ``reid/`` are those of :mod:`.videos`.

    Raises:
        FileExistsError: If ``root`` exists and is not an empty folder.
    """
    root = Path(root)
    with whole_folder(root) as unfinished:
        detection = unfinished / 'detection'
        make_shapes(detection, {'train': NUM_IMAGES}, image_size=SIDE)
        draw_rotated(detection)
        draw_foreground(detection)
        path = detection / 'annotations' / 'instances_train.json'
        content = json.loads(path.read_text())
        for annotation in content['annotations']:
            annotation['segmentation'] = box_mask(annotation['bbox'])
        path.write_text(json.dumps(content))
        _write_objects(content, path.with_name('objects_train.json'))
        _draw_semantic(content, detection / 'semantic')
        _draw_panoptic(content, detection)
        _write_proposals(content, detection / 'proposals.pkl')
        _write_captions(content, detection / 'annotations')
        _write_odvg(content, detection / 'annotations')
        _sort_into_classes(content, detection / 'train', unfinished / 'classification' / 'train')
        _draw_mnist(sorted((detection / 'train').iterdir()), unfinished / 'mnist')
        draw_videos(unfinished / 'videos', SIDE)
        draw_crops(unfinished / 'reid')
    return root


def _write_objects(content: dict, path: Path) -> None:
    """The same boxes as one class, of images with several: CrowdDet looks for pairs."""
    counts = Counter(annotation['image_id'] for annotation in content['annotations'])
    annotations = [
        annotation | {'category_id': 1}
        for annotation in content['annotations']
        if counts[annotation['image_id']] > 1
    ]
    images = [image for image in content['images'] if counts[image['id']] > 1]
    categories = [{'id': 1, 'name': 'object'}]
    objects = {'images': images, 'annotations': annotations, 'categories': categories}
    path.write_text(json.dumps(objects))


def _boxes_of(content: dict, image: dict) -> list[tuple[int, list[float]]]:
    """Class (from 1) and corners of each shape of an image."""
    return [
        (one['category_id'], [left, top, left + width, top + height])
        for one in content['annotations']
        if one['image_id'] == image['id']
        for left, top, width, height in [one['bbox']]
    ]


def _draw_semantic(content: dict, folder: Path) -> None:
    folder.mkdir()
    for image in content['images']:
        drawn = Image.new('L', (SIDE, SIDE))
        for category, box in _boxes_of(content, image):
            ImageDraw.Draw(drawn).rectangle(box, fill=category)
        drawn.save(folder / f'{Path(image["file_name"]).stem}.png')


def _draw_panoptic(content: dict, detection: Path) -> None:
    """Segments by colour, and what they are: the shapes are things, the background is stuff."""
    folder = detection / 'panoptic'
    folder.mkdir()
    annotations = []
    for image in content['images']:
        name = f'{Path(image["file_name"]).stem}.png'
        shapes = _boxes_of(content, image)
        shapes.insert(0, (NUM_THINGS + 1, [0, 0, SIDE, SIDE]))
        drawn = Image.new('RGB', (SIDE, SIDE))
        for segment, (_, box) in enumerate(shapes, start=1):
            # The number of a segment is red + 256 * green + 256² * blue.
            ImageDraw.Draw(drawn).rectangle(box, fill=(segment, 0, 0))
        drawn.save(folder / name)
        segments_info = [
            {
                'id': segment,
                'category_id': category,
                'bbox': [left, top, right - left, bottom - top],
                'area': (right - left) * (bottom - top),
                'iscrowd': 0,
            }
            for segment, (category, (left, top, right, bottom)) in enumerate(shapes, start=1)
        ]
        annotations.append(
            {'image_id': image['id'], 'file_name': name, 'segments_info': segments_info}
        )
    categories = [
        {'id': index + 1, 'name': name, 'isthing': int(index < NUM_THINGS)}
        for index, name in enumerate(panoptic_names())
    ]
    (detection / 'annotations' / 'panoptic_train.json').write_text(
        json.dumps(content | {'annotations': annotations, 'categories': categories})
    )


def panoptic_names() -> list[str]:
    """Names of things, then of stuff; most of them are not drawn."""
    return class_names(NUM_THINGS) + [f'stuff {index}' for index in range(NUM_STUFF)]


def class_names(count: int) -> list[str]:
    """So many names of classes, at least 1; those that are not drawn have names too."""
    names = [*CLASSES, *(f'class {index}' for index in range(len(CLASSES), count))]
    return ['object'] if count == 1 else names[:count]


def _write_proposals(content: dict, path: Path) -> None:
    """Boxes near the shapes, and anywhere, as the tool of MMDetection for this writes them."""
    rng = default_rng(0)
    proposals = {}
    for image in content['images']:
        shapes = np.array([box for _, box in _boxes_of(content, image)])
        near = np.repeat(shapes, 2, axis=0)
        near = near + rng.uniform(-3, 3, near.shape)
        corners = rng.uniform(0, SIDE - 32, (PROPOSALS, 2))
        anywhere = np.hstack([corners, corners + rng.uniform(8, 32, corners.shape)])
        boxes = np.vstack([near, anywhere])[:PROPOSALS].clip(0, SIDE)
        scores = np.linspace(1, 0, len(boxes))
        proposals[f'train/{image["file_name"]}'] = {'bboxes': boxes, 'scores': scores}
    path.write_bytes(pickle.dumps(proposals))


def _write_captions(content: dict, folder: Path) -> None:
    """What is in an image, in the formats of COCO for captions and of LAVIS."""
    captions = [
        'a picture of a ' + ' and a '.join(CLASSES[one - 1] for one, _ in _boxes_of(content, image))
        for image in content['images']
    ]
    names = [image['file_name'] for image in content['images']]
    lavis = [
        {'image': f'train/{name}', 'caption': caption}
        for name, caption in zip(names, captions, strict=True)
    ]
    (folder / 'captions_lavis.json').write_text(json.dumps(lavis))
    images = [{'id': i, 'coco_url': f'drawn/train/{name}'} for i, name in enumerate(names)]
    texts = [{'id': i, 'image_id': i, 'caption': one} for i, one in enumerate(captions)]
    (folder / 'captions_coco.json').write_text(json.dumps({'images': images, 'annotations': texts}))


def _write_odvg(content: dict, folder: Path) -> None:
    """Boxes and the names of their classes, an image in each line, as for Grounding DINO."""
    lines = [
        {
            'filename': image['file_name'],
            'height': SIDE,
            'width': SIDE,
            'detection': {
                'instances': [
                    {'bbox': box, 'label': category - 1, 'category': CLASSES[category - 1]}
                    for category, box in _boxes_of(content, image)
                ]
            },
        }
        for image in content['images']
    ]
    (folder / 'odvg_train.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    (folder / 'odvg_labels.json').write_text(json.dumps(dict(enumerate(CLASSES))))


def _sort_into_classes(content: dict, images: Path, folder: Path) -> None:
    for image in content['images']:
        place = folder / CLASSES[image['id'] % 2] / image['file_name']
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / image['file_name'], place)


def _draw_mnist(images: list[Path], folder: Path) -> None:
    """The four files of MNIST: a header of big-endian numbers, then bytes."""
    folder.mkdir()
    shape = DIGIT_SIDE, DIGIT_SIDE
    pixels = [np.asarray(Image.open(path).convert('L').resize(shape)) for path in images]
    of_images = np.array([0x803, len(images), *shape], '>i4').tobytes()
    of_labels = np.array([0x801, len(images)], '>i4').tobytes()
    for split in ('train', 't10k'):
        (folder / f'{split}-images-idx3-ubyte').write_bytes(of_images + np.array(pixels).tobytes())
        (folder / f'{split}-labels-idx1-ubyte').write_bytes(of_labels + bytes(range(len(images))))
