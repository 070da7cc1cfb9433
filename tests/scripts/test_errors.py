"""How scripts end: with a sentence where the input is wrong, with a traceback where they are."""

import runpy
import sys

import pytest
from detection import ROOT

from mmwau.files.whole import check_folder
from mmwau.scripts.errors import run_script

TOOLS = ROOT / 'tools'


def bug():
    return max(())


def library():
    raise ValueError('of somebody else')


def test_what_mmwau_raises_ends_in_a_sentence(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: check_folder(tmp_path / 'file', '--out'))
    assert ended.value.code == 1
    told = capsys.readouterr()
    assert told.err.startswith('NotADirectoryError: --out ')
    assert (told.err.count('\n'), told.out) == (1, '')


def test_a_file_that_is_not_there_ends_in_a_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit, match='1'):
        run_script((tmp_path / 'none').read_text)
    assert capsys.readouterr().err.startswith('FileNotFoundError: [Errno 2] No such file')


@pytest.mark.parametrize('main', [bug, library])
def test_other_errors_are_bugs(main):
    with pytest.raises(ValueError, match=r'empty|somebody'):
        run_script(main)


@pytest.mark.parametrize(('status', 'ends'), [(None, False), (0, False), (3, True)])
def test_the_status_of_a_script_is_what_it_returns(status, ends):
    if not ends:
        assert run_script(lambda: status) is None
        return
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: status)
    assert ended.value.code == status


@pytest.mark.parametrize(
    ('tool', 'arguments', 'words'),
    [
        ('train.py', ['none.py'], 'FileNotFoundError: The config none.py does not exist'),
        ('train.py', ['wau.py', '--wau', 'layers'], 'ValueError: --wau layers: the config has WAU'),
        ('test.py', ['none.py', 'a.pth'], 'FileNotFoundError: The config none.py does not exist'),
        ('make_demo_data.py', ['wau.py/folder'], 'NotADirectoryError: root wau.py: '),
        ('experiment.py', ['none.py'], 'FileNotFoundError: The suite none.py does not exist'),
        ('compatibility.py', ['--report', '--work-dir', 'none'], 'FileNotFoundError: There are no'),
        ('analysis_tools/compare_runs.py', ['none', 'nothing'], 'FileNotFoundError: '),
        ('analysis_tools/filter_overlap.py', ['none.pth'], 'FileNotFoundError: '),
        ('analysis_tools/prune_curve.py', ['none.py', 'a.pth'], 'FileNotFoundError: The config '),
        ('dataset_converters/voc_to_coco.py', ['none', 'new'], 'FileNotFoundError: '),
        ('dataset_converters/cifar_folders_to_batches.py', ['none', 'new'], 'FileNotFoundError: '),
    ],
)
def test_every_tool_ends_so(tmp_path, monkeypatch, capsys, tool, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'wau.py').write_text("optim_wrapper = dict(type='WAUOptimWrapper')\n")
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / tool), run_name='__main__')
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(words)
