"""Drawn data for recipes of any kind: boxes, masks, a semantic map, classes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

from mmwau.datasets.shapes import CLASSES, make_shapes
from mmwau.files.whole import check_new

from .pose import drawn_pose
from .rotated import draw_rotated, drawn_rotated
from .segmentation import draw_foreground, drawn_segmentation

SIDE = 128
NUM_IMAGES = 8


def make_data(root: str | Path) -> Path:
    """Draw shapes into a new folder, in the two layouts that recipes read; return the folder.

    ``detection/`` is laid out like COCO, with the box of each shape as its mask too, and a semantic
    map for each image (0 is background, then the classes). ``classification/`` has the same images
    in two folders, one for each class. The other projects read their own forms of the first folder.

    Raises:
        FileExistsError: If ``root`` exists and is not an empty folder.
    """
    root = Path(root)
    check_new(root)
    detection = root / 'detection'
    make_shapes(detection, {'train': NUM_IMAGES}, image_size=SIDE)
    draw_rotated(detection)
    draw_foreground(detection)
    path = detection / 'annotations' / 'instances_train.json'
    content = json.loads(path.read_text())
    maps = {image['id']: Image.new('L', (SIDE, SIDE)) for image in content['images']}
    for annotation in content['annotations']:
        left, top, width, height = annotation['bbox']
        right, bottom = left + width, top + height
        annotation['segmentation'] = [[left, top, right, top, right, bottom, left, bottom]]
        draw = ImageDraw.Draw(maps[annotation['image_id']])
        draw.rectangle((left, top, right, bottom), fill=annotation['category_id'])
    path.write_text(json.dumps(content))
    (detection / 'semantic').mkdir()
    for image in content['images']:
        name = Path(image['file_name'])
        maps[image['id']].save(detection / 'semantic' / f'{name.stem}.png')
        place = root / 'classification' / 'train' / CLASSES[image['id'] % 2] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(detection / 'train' / name, place)
    return root


def drawn_detection(dataset: dict, root: Path, num_classes: int) -> dict:
    """A recipe's data set of files, with the drawn images for its own and its own pipeline.

    The recipe's head has so many classes, at least 1; those that are not drawn have names too.
    """
    names = [*CLASSES, *(f'class {index}' for index in range(len(CLASSES), num_classes))]
    kept = {key: dataset[key] for key in ('pipeline', 'filter_cfg') if key in dataset}
    return dict(
        type='CocoDataset',
        data_root=str(root / 'detection'),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/', seg='semantic/'),
        metainfo=dict(classes=tuple(names[:num_classes])),
        **kept,
    )


def drawn_classification(dataset: dict, root: Path) -> dict:
    """The same for data sets of MMPreTrain."""
    place = dict(data_root=str(root / 'classification'), data_prefix='train')
    return dict(type='CustomDataset', pipeline=dataset['pipeline'], **place)


# What draws the data of a project's recipes. The images of some are cut to one side.
DRAWN: dict[str, Callable[..., dict]] = {
    'mmdet': drawn_detection,
    'mmpretrain': drawn_classification,
    'mmseg': drawn_segmentation,
    'mmrotate': drawn_rotated,
    'mmpose': drawn_pose,
}
CUT = ('mmdet', 'mmseg', 'mmrotate')
