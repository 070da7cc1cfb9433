"""Drawn data for recipes of MMRotate: the smallest rectangle around each shape."""

import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np

from mmwau.datasets.shapes import CLASSES


def draw_rotated(detection: Path) -> None:
    """Write the rectangles of each image into a file, in the form of DOTA: corners, class, 0."""
    content = json.loads((detection / 'annotations' / 'instances_train.json').read_text())
    lines = defaultdict(list)
    for annotation in content['annotations']:
        (outline,) = annotation['segmentation']
        corners = cv2.boxPoints(cv2.minAreaRect(np.float32(outline).reshape(-1, 2)))
        numbers = ' '.join(f'{number:.2f}' for number in corners.ravel())
        name = CLASSES[annotation['category_id'] - 1]
        lines[annotation['image_id']].append(f'{numbers} {name} 0\n')
    folder = detection / 'rotated'
    folder.mkdir()
    for image in content['images']:
        path = folder / Path(image['file_name']).with_suffix('.txt')
        path.write_text(''.join(lines[image['id']]))


def drawn_rotated(dataset: dict, root: Path, num_classes: int) -> dict:
    """A recipe's data set of files, with the drawn images for its own and its own pipeline.

    The recipe's head has so many classes; those that are not drawn have names too.
    """
    names = [*CLASSES, *(f'class_{index}' for index in range(len(CLASSES), num_classes))]
    kept = {key: dataset[key] for key in ('pipeline', 'filter_cfg') if key in dataset}
    return dict(
        type='DOTADataset',
        data_root=str(root / 'detection'),
        ann_file='rotated/',
        data_prefix=dict(img_path='train/'),
        img_suffix='jpg',
        metainfo=dict(classes=tuple(names)),
        **kept,
    )
