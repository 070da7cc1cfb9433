"""Drawn data for recipes of MMPose: keypoints at random places in the box of each shape."""

import json
from pathlib import Path

import numpy as np


def drawn_pose(dataset: dict, root: Path, num_classes: int) -> dict:
    """A recipe's data set of files, with the drawn images for its own and its own pipeline.

    Which keypoints there are is that of the recipe's data set. They are drawn when a first recipe
    asks for so many.
    """
    from mmpose.datasets.datasets.utils import parse_pose_metainfo
    from mmpose.registry import DATASETS

    metainfo = dataset.get('metainfo') or DATASETS.get(dataset['type']).METAINFO
    if not metainfo:  # DeepFashion's, which has one for each kind of clothes
        metainfo = dict(from_file=f'configs/_base_/datasets/deepfashion_{dataset["subset"]}.py')
    count = len(parse_pose_metainfo(dict(metainfo))['keypoint_id2name'])
    annotations = root / 'detection' / 'annotations'
    path = annotations / f'keypoints_{count}.json'
    if not path.exists():
        path.write_text(json.dumps(_with_keypoints(annotations / 'instances_train.json', count)))
    return dict(
        type='CocoDataset',
        data_root=str(root / 'detection'),
        ann_file=f'annotations/{path.name}',
        data_prefix=dict(img='train/'),
        data_mode=dataset.get('data_mode', 'topdown'),
        metainfo=metainfo,
        pipeline=dataset.get('pipeline', []),
    )


def _with_keypoints(path: Path, count: int) -> dict:
    """Annotations of COCO form, of one class, with so many keypoints each, all of them visible."""
    rng = np.random.default_rng(0)
    content = json.loads(path.read_text())
    content['categories'] = [dict(id=1, name='person')]
    for annotation in content['annotations']:
        left, top, width, height = annotation['bbox']
        places = rng.uniform((left, top), (left + width, top + height), (count, 2)).round(2)
        visible = np.full((count, 1), 2)
        annotation['keypoints'] = np.hstack([places, visible]).ravel().tolist()
        annotation.update(category_id=1, num_keypoints=count)
    return content
