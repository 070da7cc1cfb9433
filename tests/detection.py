"""Small detection data and runs of the real scripts, for the slow tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

from mmwau.datasets.shapes import make_shapes

ROOT = Path(__file__).parents[1]
TRAIN, TEST = ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py'
COCO_NAMES = {
    'circle': (37, 'sports ball'),
    'square': (84, 'book'),
    'triangle': (59, 'pizza'),
    'star': (64, 'potted plant'),
    'cross': (5, 'airplane'),
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
    """Draw shapes into a folder laid out and named like COCO 2017, ids with gaps included."""
    make_shapes(root, {'train2017': 8, 'val2017': 4}, image_size=96)
    for path in (root / 'annotations').iterdir():
        content = json.loads(path.read_text())
        new_ids = {}
        for category in content['categories']:
            old_id, name = category['id'], category['name']
            category['id'], category['name'] = COCO_NAMES[name]
            new_ids[old_id] = category['id']
        for annotation in content['annotations']:
            annotation['category_id'] = new_ids[annotation['category_id']]
        path.write_text(json.dumps(content))


def run(command, cwd, **env):
    """Run a script as a user would, with one thread; return its process and all it printed."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_python(script, *arguments, cwd, **env):
    return run([sys.executable, script, *arguments], cwd, **env)
