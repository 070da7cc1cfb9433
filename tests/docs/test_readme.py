import pages
import torch
from detection import ROOT
from mmengine.config import Config

README = (ROOT / 'README.md').read_text()
BLOCKS = [block.text for block in pages.blocks_of('README.md', README)]


def test_the_two_commands_come_before_everything_else_that_is_run():
    first = next(block for block in pages.blocks_of('README.md', README))
    assert [line.split()[:2] for line in first.text.splitlines()] == [
        ['make', 'demo'],
        ['make', 'test'],
    ]


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


def test_the_one_call_holds():
    scope = {}
    exec(next(text for text in BLOCKS if 'attach(' in text), scope)
    model, optimizer = scope['model'], scope['optimizer']
    before = model[0].weight.detach().clone()
    model(torch.randn(4, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    assert int(model[0].weight.ne(before).flatten(1).any(dim=1).sum()) == 8


def test_configs_that_it_names_exist():
    rows = [row for table in pages.tables_of(README) for row in table if 'baseline' in table[0]]
    named = [name for row in rows for name in pages.code_spans(' '.join(row[:2]))]
    assert len(named) > 8
    assert [name for name in named if not (ROOT / 'configs' / name).exists()] == []


def test_it_is_short():
    assert len(README.splitlines()) <= 150
