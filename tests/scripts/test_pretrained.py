"""Weights that can't be loaded are reported in a sentence, which says what to do."""

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from detection import ROOT, run_python
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import nn

from mmwau.datasets.shapes import make_shapes
from mmwau.scripts.pretrained import WeightsError, explain_weights


class Backbone(BaseModule):
    def __init__(self, checkpoint):
        super().__init__(dict(type='Pretrained', checkpoint=checkpoint))
        self.conv = nn.Conv2d(3, 4, 3)


def load(checkpoint):
    """Load the weights as a training does; return the backbone."""
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    cfg = Config(dict(model=dict(parts=[dict(init_cfg=init_cfg)]), load_from=checkpoint))
    backbone = Backbone(checkpoint)
    with explain_weights(cfg):
        backbone.init_weights()
    return backbone


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder that weights are downloaded to, and no way out but to this machine itself."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    for name in ('http_proxy', 'https_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9')  # where nobody listens
    monkeypatch.setenv('no_proxy', 'localhost')
    return tmp_path / 'torch/hub/checkpoints'


@pytest.fixture
def server(tmp_path):
    """The address of a server of files, and their folder."""
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(('localhost', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://localhost:{server.server_port}', folder
        server.shutdown()


@pytest.mark.parametrize(
    ('checkpoint', 'file'),
    [
        ('torchvision://resnet50', 'resnet50-0676ba61.pth'),
        ('open-mmlab://resnet50_v1c', 'resnet50_v1c-2cccc1ad.pth'),
        ('https://example.org/a/b.pth?download=1', 'b.pth'),
    ],
)
def test_without_internet_file_place_and_setting_are_named(hub, checkpoint, file):
    with pytest.raises(WeightsError) as told:
        load(checkpoint)
    words = str(told.value)
    assert words.startswith(f'The weights {checkpoint} can not be downloaded (URLError: <urlopen')
    assert re.search(rf'Fetch https://\S+/{file}(\?download=1)? where there is internet', words)
    assert f'and copy it to {hub / file}, or name a file' in words
    assert words.endswith('--cfg-options model.parts.0.init_cfg.checkpoint=FILE')
    assert '\n' not in words


def test_the_file_can_be_put_where_the_message_says(hub):
    weights = {name: value + 1 for name, value in Backbone('').state_dict().items()}
    hub.mkdir(parents=True)
    torch.save(weights, hub / 'resnet50-0676ba61.pth')
    backbone = load('torchvision://resnet50')
    assert backbone.conv.weight.equal(weights['conv.weight'])


def test_what_can_be_downloaded_is(hub, server):
    address, folder = server
    weights = Backbone('').state_dict()
    torch.save(weights, folder / 'good.pth')
    assert load(f'{address}/good.pth').conv.weight.equal(weights['conv.weight'])
    with pytest.raises(WeightsError, match=r'none.pth can not be downloaded \(HTTPError: .*404'):
        load(f'{address}/none.pth')


def test_a_truncated_download_is_reported(hub, server):
    address, folder = server
    torch.save(Backbone('').state_dict(), folder / 'cut.pth')
    content = (folder / 'cut.pth').read_bytes()
    (folder / 'cut.pth').write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=rf'are in {hub}/cut.pth, .* remove it to have it down'):
        load(f'{address}/cut.pth')


def test_names_and_files_that_do_not_exist_are_reported(hub):
    with pytest.raises(WeightsError, match=r'resnet5 are none that .*like it: resnet50, '):
        load('torchvision://resnet5')
    with pytest.raises(WeightsError, match=r'The weights none.pth do not exist \(seen from .*=FIL'):
        load('none.pth')
    made = r'to make them, python .*converters/efficientnet_lite0.py a/efficientnet_lite0.pth; or'
    with pytest.raises(WeightsError, match=made):
        load('a/efficientnet_lite0.pth')


def test_other_errors_are_those_of_mmengine_and_it_is_left_as_it_was(hub):
    before = CheckpointLoader.__dict__['load_checkpoint']
    with pytest.raises(ImportError, match='pavi'):
        load('pavi://some/model')
    assert CheckpointLoader.__dict__['load_checkpoint'] is before


@pytest.mark.slow
def test_scripts_end_with_the_sentence(tmp_path, hub):
    make_shapes(tmp_path / 'data/demo', {'train': 2, 'val': 2}, image_size=96)
    config = tmp_path / 'pretrained.py'
    config.write_text(
        f'_base_ = {str(ROOT / "configs/faster_rcnn_r18_demo.py")!r}\n'
        "weights = dict(_delete_=True, type='Pretrained', checkpoint='torchvision://resnet18')\n"
        'model = dict(backbone=dict(init_cfg=weights))\n'
    )
    done = run_python(ROOT / 'tools/train.py', config, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith('WeightsError: The weights torchvision://resnet18 can not be downloaded')
    assert last.endswith('--cfg-options model.backbone.init_cfg.checkpoint=FILE')
    assert 'Traceback' not in done.stdout
    address = 'https://example.org/epoch_1.pth'
    done = run_python(ROOT / 'tools/test.py', config, address, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f'WeightsError: The weights {address} can not be downloaded')
    assert last.endswith('name a file of your own in its place')
    assert 'Traceback' not in done.stdout
