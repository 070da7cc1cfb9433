"""Changes of the configs and annotation files of the fixture `cfg`, for tests of what is checked.

Each gives a function that takes the config.
"""

import json
from pathlib import Path

from mmengine.config import ConfigDict

from mmwau.scripts.class_check import remarks
from mmwau.scripts.data_check import check_data
from mmwau.scripts.preflight import check_train_config

TRAIN = Path('data/demo/annotations/instances_train.json')
VAL = Path('data/demo/annotations/instances_val.json')
OTHER = Path('data/demo/annotations/other.json')


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def content(path=TRAIN, **parts):
    """Put other lists into a file."""
    return lambda cfg: change(path, lambda whole: whole.update(parts))


def entry(part, path=TRAIN, **values):
    """Change the only annotation or image of a file, or its first category; None removes a key."""

    def edit(whole):
        whole[part][0].update(values)
        for key in [key for key, value in values.items() if value is None]:
            del whole[part][0][key]

    return lambda cfg: change(path, edit)


def annotation(path=TRAIN, **values):
    return entry('annotations', path, **values)


def categories(*names, path=TRAIN):
    return content(path, categories=[{'id': 1 + i, 'name': name} for i, name in enumerate(names)])


def classes(*names):
    def write(cfg):
        for stage in ('train', 'val', 'test'):
            cfg[f'{stage}_dataloader'].dataset.metainfo = dict(classes=names)

    return write


def heads(**parts):
    return lambda cfg: cfg.model.roi_head.update(ConfigDict(parts))


def both(*changes):
    return lambda cfg: [change(cfg) for change in changes]


def outputs(count, **more):
    return dict(type='Shared2FCBBoxHead', num_classes=count, **more)


def other_file(cfg):
    """A copy of the annotations for the metric."""
    OTHER.write_bytes(VAL.read_bytes())
    cfg.val_evaluator.ann_file = str(OTHER)


def several(names):
    """A training set joined of files that differ in their categories."""

    def join(cfg):
        for index, some in enumerate(names):
            path = TRAIN.with_name(f'{index}.json')
            path.write_bytes(TRAIN.read_bytes())
            categories(*some, path=path)(cfg)
        dataset = cfg.train_dataloader.dataset
        parts = [{**dataset, 'ann_file': f'annotations/{i}.json'} for i in range(len(names))]
        cfg.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=parts)

    return join


SMALL = {'file_name': '0.jpg', 'width': 160, 'height': 160}
MISSPELT = ('circle', 'Square', 'triangle', 'star', 'cross')
SWAPPED = ('square', 'circle', 'triangle', 'star', 'cross')
AGAIN = {'id': 1, 'image_id': 0, 'category_id': 2, 'bbox': [1, 1, 9, 9], 'area': 81, 'iscrowd': 0}


def remarked(cfg, stages=('train', 'val')):
    """What is remarked upon in a config that is not refused."""
    check_train_config(cfg)
    return '\n'.join(remarks(cfg, check_data(cfg, stages)))
