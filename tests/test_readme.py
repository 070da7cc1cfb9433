import pages
from detection import ROOT
from mmengine.config import Config

README = (ROOT / 'README.md').read_text()
BLOCKS = [block.text for block in pages.blocks_of('README.md', README)]


def test_first_lines_are_the_two_commands():
    lines = README.splitlines()
    assert lines[0] == '```bash'
    assert [line.split()[:2] for line in lines[1:3]] == [['make', 'demo'], ['make', 'test']]
    assert lines[3] == '```'


def test_the_three_lines_are_those_of_the_configs(tmp_path):
    config = Config.fromfile(ROOT / 'configs' / 'faster_rcnn_r50_wau_coco.py')
    (lines,) = (text for text in BLOCKS if 'optim_wrapper' in text)
    assert len(lines.splitlines()) == 3
    (tmp_path / 'three_lines.py').write_text(lines)
    for key, value in Config.fromfile(tmp_path / 'three_lines.py').items():
        shown, used = value, config[key]
        if key == 'optim_wrapper':
            used = {name: used[name] for name in shown}
        assert shown == used, key


def test_plain_loop_runs_and_holds():
    scope = {}
    exec(next(text for text in BLOCKS if 'import torch' in text), scope)
    assert [layer.num_slices for layer in scope['layers'].values()] == [16, 8]
    assert scope['update'] == 9


def test_configs_that_it_names_exist():
    rows = [row for table in pages.tables_of(README) for row in table if 'plain twin' in table[0]]
    named = [name for row in rows for name in pages.code_spans(' '.join(row[:2]))]
    assert len(named) > 8
    assert [name for name in named if not (ROOT / 'configs' / name).exists()] == []


def test_it_is_short():
    assert len(README.splitlines()) <= 175
