"""Drawn data for recipes of MMSegmentation."""

from pathlib import Path

import numpy as np
from PIL import Image

from mmwau.datasets.shapes import CLASSES

# Of the models too: their parts are made for one size of images.
SIZES = ('img_size', 'mask_size', 'size_divisor')
FEW_CLASSES = 'foreground'


def draw_foreground(detection: Path) -> None:
    """Draw maps of two classes beside those of all, for recipes that have no more."""
    folder = detection / FEW_CLASSES / 'train'
    folder.mkdir(parents=True)
    for path in (detection / 'maps' / 'train').iterdir():
        labels = np.asarray(Image.open(path))
        Image.fromarray(labels.clip(max=1)).save(folder / path.name)


def drawn_segmentation(dataset: dict, root: Path, num_classes: int) -> dict:
    """A recipe's data set of files, with the drawn images for its own and its own pipeline.

    The recipe's heads have so many classes: 0 is background, then the drawn ones, or one for them
    all where the recipe has less.
    """
    maps = 'maps' if num_classes > len(CLASSES) else FEW_CLASSES
    # The data set and its pipeline have to say the same of label 0.
    without_zero = any(step.get('reduce_zero_label') for step in dataset['pipeline'])
    return dict(
        type='BaseSegDataset',
        data_root=str(root / 'detection'),
        data_prefix=dict(img_path='train/', seg_map_path=f'{maps}/train/'),
        metainfo=dict(classes=tuple(f'class {index}' for index in range(num_classes))),
        reduce_zero_label=without_zero,
        pipeline=dataset['pipeline'],
    )
