import importlib.util
import re
import runpy

import pytest
from detection import ROOT
from PIL import Image

from mmwau.datasets.shapes import make_shapes

SMALL = f"""
_base_ = {str(ROOT / 'configs' / 'faster_rcnn_r18_wau_demo.py')!r}
train_cfg = dict(max_epochs=1, val_interval=1)
train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
"""


@pytest.mark.slow
def test_demo_trains_evaluates_and_shows(tmp_path, monkeypatch, capfd):
    """The whole demo in a project of its own, with few images and one epoch."""
    spec = importlib.util.spec_from_file_location('demo', ROOT / 'tools' / 'demo.py')
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    (tmp_path / 'configs').mkdir()
    (tmp_path / demo.CONFIG).write_text(SMALL)
    make_shapes(tmp_path / 'data' / 'demo', {'train': 12, 'val': 5})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, 'ROOT', tmp_path)
    demo.main()
    said = capfd.readouterr().out
    assert '$ python tools/train.py configs/faster_rcnn_r18_wau_demo.py' in said
    assert 'Epoch(train) [1][3/3]' in said
    assert re.search(r'bbox_mAP_50 +│ +-?[\d.]+ │', said)
    for name in ('detections.png', 'overlap.png'):
        picture = f'work_dirs/faster_rcnn_r18_wau_demo/{name}'
        assert said.count(picture) >= 1
        with Image.open(picture) as image:
            assert image.width > 500


@pytest.mark.parametrize(('options', 'status'), [(['--help'], 0), (['--quick'], 2)])
def test_options_start_nothing(options, status, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['demo.py', *options])
    monkeypatch.setattr('subprocess.run', lambda *_, **__: pytest.fail('the demo was started'))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools' / 'demo.py'), run_name='__main__')
    assert stopped.value.code == status
    assert 'usage: demo.py' in ''.join(capsys.readouterr())
