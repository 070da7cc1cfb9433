import gc
import json
import os
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import pytest
from hypothesis import settings
from mmengine.config import Config
from PIL import Image

from mmwau.datasets.shapes import CLASSES

sys.path.insert(0, str(Path(__file__).parent / 'helpers'))  # for what tests share
import quick_mmengine  # noqa: F401

# Two busy cores make single examples slow now and then; that is no failure.
settings.register_profile('mmwau', deadline=None, derandomize=True)
settings.load_profile('mmwau')


@cache
def read_demo_config():
    return Config.fromfile(Path(__file__).parents[1] / 'configs' / 'faster_rcnn_r18_wau_demo.py')


def pytest_collection_modifyitems(items):
    # Files with slow tests first: so no process works on one at the end while others are done.
    slow = {item.path for item in items if item.get_closest_marker('slow')}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    # MMEngine collects garbage at each data set. What was imported is none.
    gc.freeze()


@pytest.fixture(autouse=True)
def environment():
    """What a test or a script in it sets, such as LOCAL_RANK, others do not see."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def skip_in_small_layers(monkeypatch):
    """Gradients of held slices are not computed in small layers either."""
    monkeypatch.setattr('mmwau.core.narrow_convolution.MIN_SAVED', 0)
    monkeypatch.setattr('mmwau.core.narrow_convolution.BLOCK', 1)


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """The demo's WAU config, in a folder of its own with data that exist."""
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'val'):
        (tmp_path / 'data/demo' / split).mkdir(parents=True)
        Image.new('RGB', (160, 160)).save(tmp_path / 'data/demo' / split / '0.jpg')
        content = {
            'images': [{'id': 0, 'file_name': '0.jpg', 'width': 160, 'height': 160}],
            'annotations': [
                {
                    'id': 1,
                    'image_id': 0,
                    'category_id': 1,
                    'bbox': [10, 10, 50, 50],
                    'area': 2500,
                    'iscrowd': 0,
                }
            ],
            'categories': [{'id': id_, 'name': name} for id_, name in enumerate(CLASSES, start=1)],
        }
        annotations = tmp_path / f'data/demo/annotations/instances_{split}.json'
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps(content))
    cfg = deepcopy(read_demo_config())
    cfg.work_dir = 'work_dirs/demo'
    return cfg
