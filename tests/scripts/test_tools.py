"""What all tools do alike: they check where they write and what they are asked before they work."""

import io
import os
import re
import runpy
import sys

import pytest
from detection import ROOT
from rich.console import Console

from mmwau.reporting.page import Table
from mmwau.reporting.terminal import progress_bar, text_console

DEMO = ROOT / 'configs/faster_rcnn_r18_wau_demo.py'
ANALYSIS = 'analysis_tools/'


def call(monkeypatch, tool, *arguments):
    """Run a tool in this process, as from a command line."""
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')


@pytest.mark.parametrize('place', ['file', 'file/folder'])
@pytest.mark.parametrize(
    ('tool', 'arguments', 'option'),
    [
        ('benchmark.py', ['--sections', 'bytes sent'], '--work-dir'),
        ('compatibility.py', ['--only', 'mmdet/fcos'], '--work-dir'),
        ('experiment.py', [ROOT / 'configs/suites/demo.py'], '--work-dir'),
        ('experiment.py', [ROOT / 'configs/suites/demo.py'], '--out'),
        ('test.py', [DEMO, 'epoch_1.pth'], '--work-dir'),
        ('test.py', [DEMO, 'epoch_1.pth'], '--show-dir'),
        (ANALYSIS + 'compare_runs.py', ['one', 'two'], '--out'),
        (ANALYSIS + 'filter_overlap.py', ['epoch_1.pth'], '--out'),
        (ANALYSIS + 'prune_curve.py', [DEMO, 'epoch_1.pth'], '--work-dir'),
    ],
)
def test_where_to_write_is_checked_first(
    tmp_path, monkeypatch, capsys, tool, arguments, option, place
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'file').write_text('')
    words = rf'{option} {place}: \S*file is a file. Name another {option}'
    # The benchmark raises.
    with pytest.raises((NotADirectoryError, SystemExit)) as ended:
        call(monkeypatch, tool, *arguments, option, place)
    assert re.search(words, f'{capsys.readouterr().err} {ended.value}')
    assert sorted(os.listdir()) == ['configs', 'file']


def test_predictions_are_not_written_over_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'out.pkl').mkdir()
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit, match='1'):
        call(monkeypatch, 'test.py', DEMO, 'epoch_1.pth', '--out', 'out.pkl')
    told = capsys.readouterr().err
    assert told.startswith('IsADirectoryError: --out out.pkl is a folder. Name a file')
    with pytest.raises(SystemExit, match='1'):
        call(monkeypatch, 'test.py', DEMO, 'epoch_1.pth', '--out', 'file/out.pkl')
    assert capsys.readouterr().err.startswith('NotADirectoryError: --out file: file is a file')


@pytest.mark.parametrize(
    ('tool', 'arguments', 'words'),
    [
        ('benchmark.py', ['--sections', 'growth', '--quick'], '--sections growth: --quick does'),
        (
            'benchmark.py',
            ['--sections', 'memory', '--networks', 'resnet50'],
            '--networks chooses among those of the section networks, which --sections leaves out',
        ),
        ('compatibility.py', ['--report', '--only', 'fcos'], '--only chooses what to train'),
        ('experiment.py', ['suite.py', '--report', '--list'], '--list and --report each do one'),
        ('experiment.py', ['suite.py', '--report', '--only', 'a'], '--only chooses what to train'),
        (
            'train.py',
            [DEMO, '--work-dir', 'a', '--cfg-options', 'work_dir=b'],
            '--work-dir and --cfg-options work_dir=... contradict each other; give one of them',
        ),
        (
            'train.py',
            [DEMO, '--resume', 'a.pth', '--cfg-options', 'load_from=b.pth'],
            '--resume and --cfg-options load_from=... contradict',
        ),
        (
            'test.py',
            [DEMO, 'a.pth', '--cfg-options', 'load_from=b.pth'],
            'checkpoint and --cfg-options load_from=... contradict',
        ),
        ('test.py', [DEMO, 'a.pth', '--wait-time', '1'], '--wait-time is for --show'),
        ('test.py', [DEMO, 'a.pth', '--out', 'a.json'], '--out must end with .pkl or .pickle'),
        (
            ANALYSIS + 'filter_overlap.py',
            ['a.pth', '--images', '8'],
            '--images are compared with --config, which is not given',
        ),
        (
            ANALYSIS + 'prune_curve.py',
            [DEMO, 'a.pth', '--layers', 'neck'],
            '--layers is for --per-layer, which is not given',
        ),
        (
            ANALYSIS + 'prune_curve.py',
            [DEMO, 'a.pth', '--layer-fractions', '0.5'],
            '--layer-fractions is for --per-layer',
        ),
        (
            ANALYSIS + 'prune_curve.py',
            [DEMO, 'a.pth', '--orders', 'l1', '--seeds', '0'],
            '--seeds is for --orders random, which is not given',
        ),
        (
            ANALYSIS + 'prune_curve.py',
            [DEMO, 'a.pth', '--orders', 'l1', '--apoz-images', '9'],
            '--apoz-images is for --orders apoz',
        ),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(
    tmp_path, monkeypatch, capsys, tool, arguments, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, tool, *arguments)
    assert ended.value.code == 2
    assert words in ' '.join(capsys.readouterr().err.split())
    assert os.listdir() == []


NAME = 'runs [v1]/[bold]x[/bold] :warning:'


def test_paths_are_printed_as_they_are():
    for console in (
        text_console(width=100, file=io.StringIO()),
        Console(file=io.StringIO(), width=100),
    ):
        table = Table(NAME, [NAME, 'b'], [['a', NAME]])
        console.print(table.to_terminal())
        assert console.file.getvalue().count(NAME) == 3
    console = text_console(width=100, file=io.StringIO())
    console.print(f'Written: {NAME}')
    with progress_bar(console) as progress:
        progress.add_task(NAME)
    assert console.file.getvalue().count(NAME) == 2
