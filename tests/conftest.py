import json
import sys
from pathlib import Path

import mmwau.openmp  # noqa: F401  (before torch)

import pytest
from hypothesis import settings
from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).parent))  # for tests/reference.py

# Two busy cores make single examples slow now and then; that is no failure.
settings.register_profile('mmwau', deadline=None, derandomize=True)
settings.load_profile('mmwau')


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """The demo's WAU config, in a folder of its own with data that exist."""
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'val'):
        (tmp_path / 'data/demo' / split).mkdir(parents=True)
        annotations = tmp_path / f'data/demo/annotations/instances_{split}.json'
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps({'images': [], 'annotations': [], 'categories': []}))
    cfg = Config.fromfile(Path(__file__).parents[1] / 'configs' / 'faster_rcnn_r18_wau_demo.py')
    cfg.work_dir = 'work_dirs/demo'
    return cfg
