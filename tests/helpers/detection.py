"""Small detection data and runs of the real scripts, for the slow tests."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from mmdet.datasets import CocoDataset
from warm import run_warm

from mmwau.datasets.shapes import make_shapes

ROOT = Path(__file__).parents[2]
TRAIN, TEST = ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py'
COCO_NAMES = {
    'circle': 'sports ball',
    'square': 'book',
    'triangle': 'pizza',
    'star': 'potted plant',
    'cross': 'airplane',
}
# The standard recipe on images of 96 pixels, without weights from the internet.
SHRINK = (
    'model.backbone.init_cfg=None',
    'train_dataloader.dataset.pipeline.2.scale=(96,96)',
    'val_dataloader.dataset.pipeline.1.scale=(96,96)',
    'test_dataloader.dataset.pipeline.1.scale=(96,96)',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'test_dataloader.num_workers=0',
    'test_dataloader.persistent_workers=False',
    'train_cfg.max_epochs=1',
    'default_hooks.logger.interval=1',
)


def make_coco(root):
    """Draw shapes into a folder laid out like COCO 2017, with its 80 classes and gaps in ids."""
    make_shapes(root, {'train2017': 8, 'val2017': 4}, image_size=96)
    ids = {name: 1 + index * 9 // 8 for index, name in enumerate(CocoDataset.METAINFO['classes'])}
    for path in (root / 'annotations').iterdir():
        content = json.loads(path.read_text())
        names = {category['id']: category['name'] for category in content['categories']}
        for annotation in content['annotations']:
            annotation['category_id'] = ids[COCO_NAMES[names[annotation['category_id']]]]
        content['categories'] = [{'id': id_, 'name': name} for name, id_ in ids.items()]
        path.write_text(json.dumps(content))


def run(command, cwd, **env):
    """Run a script as a user would, with one thread; return its process and all it printed."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_python(script, *arguments, cwd, **env):
    """The same for a Python script, which finds the libraries below mmwau imported already."""
    return run_warm(script, arguments, cwd, environment(env))


def environment(env):
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **env}


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])
