"""What docs/faq.md says of optimizers, errors and files is so."""

import re
import runpy
from pathlib import Path

import mmdet
import pytest
import torch
from detection import ROOT
from mmengine.config import Config
from torch import nn

from mmwau import WAU, find_layers

PAGE = (ROOT / 'docs' / 'faq.md').read_text()
ANSWERS = dict(re.findall(r'^### (.*?)\n\n(.*?)(?=^##|\Z)', PAGE, re.MULTILINE | re.DOTALL))


def holds_state(name):
    layer = nn.Conv2d(3, 8, 3)
    optimizer = getattr(torch.optim, name)(layer.parameters(), lr=0.1)
    try:
        WAU(hold='state').check_optimizer(optimizer)
    except ValueError:
        return False
    return True


def test_optimizers_that_hold_state_are_those_that_it_names():
    answer = ANSWERS['Does it work with my optimizer?']
    sentence = re.search(r'works with (.*?), and refuses\s(.*?)\.', answer, re.DOTALL)
    works, refused = sentence.groups()
    for names, expected in ((works, True), (refused, False)):
        names = re.findall(r'`(\w+)`', names)
        assert len(names) >= 3
        assert {name: holds_state(name) for name in names} == dict.fromkeys(names, expected)


def test_error_that_is_quoted_is_the_error():
    (quoted,) = (name for name in ANSWERS if name.startswith('"No convolution'))
    start, end = quoted.strip('"').split(' ... ')
    with pytest.raises(ValueError, match=f'^{start} of Conv2d {end}='):
        find_layers(nn.Conv2d(3, 8, 3), targets='backbone')


def test_missing_package_is_named(tmp_path):
    text = 'custom_imports = dict(imports=["no_such_wau"], allow_failed_imports=False)'
    (tmp_path / 'config.py').write_text(text)
    with pytest.raises(ImportError, match='no_such_wau'):
        Config.fromfile(tmp_path / 'config.py')


def test_script_of_mmdetection_fetches_what_the_configs_need():
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'misc' / 'download_dataset.py'
    needed = re.findall(r'`(\w+\.zip)`', ANSWERS['Where do I get COCO?'])
    assert len(needed) == 3
    assert all(f'/{name}' in script.read_text() for name in needed)
    config = Config.fromfile(ROOT / 'configs' / 'faster_rcnn_r50_wau_coco.py')
    for loader in (config.train_dataloader, config.val_dataloader):
        data = loader.dataset
        parts = [data.data_prefix['img'], str(Path(data.ann_file).parent)]
        assert all(f'`data/coco/{part.rstrip("/")}`' in PAGE for part in parts)


def test_folder_of_wheels_is_that_of_the_installer(monkeypatch):
    for name in ('MMWAU_WHEELS', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    folder = runpy.run_path(str(ROOT / 'tools' / 'install.py'))['wheel_cache']()
    assert f'`~/{folder.relative_to(Path.home())}`' in PAGE
