"""The notebook runs from top to bottom, and holds what it printed and drew."""

import os
import re

import nbformat
import pages
import pytest
from detection import ROOT
from nbclient import NotebookClient

NAME = 'examples/tutorial.ipynb'
PARAMETERS = 'NUM_IMAGES = '
TEXT = (ROOT / NAME).read_text()


@pytest.fixture
def notebook():
    return nbformat.reads(TEXT, as_version=4)


def outputs_of(notebook):
    return [out for cell in notebook.cells for out in cell.get('outputs', [])]


def printed(notebook):
    return ''.join(out.text for out in outputs_of(notebook) if out.output_type == 'stream')


def pictures(notebook):
    found = [set(out.get('data', {})) for out in outputs_of(notebook)]
    return [kinds for kinds in found if kinds & {'image/jpeg', 'image/png'}]


def overlaps(notebook):
    """The last column of the table: the overlap at the end, by arm."""
    rows = re.findall(r'^(\w.*?) {2,}\S+ +\S+ +(\d\.\d+)$', printed(notebook), re.MULTILINE)
    return {name: float(overlap) for name, overlap in rows}


@pytest.mark.slow
def test_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    """With few images and one epoch; all else is as it stands."""
    (cell,) = (cell for cell in notebook.cells if cell.source.startswith(PARAMETERS))
    cell.source = (
        f"NUM_IMAGES = {{'train': 8, 'val': 4}}\nEPOCHS = 1\nFOLDER = Path({str(tmp_path)!r})"
    )
    monkeypatch.setenv('PYTHONPATH', f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    folder = {'metadata': {'path': str(ROOT / 'examples')}}
    NotebookClient(notebook, timeout=300, kernel_name='python3', resources=folder).execute()
    assert set(overlaps(notebook)) == {'WAU', 'WAU, rescale=True', 'baseline'}
    assert len(pictures(notebook)) == 4
    runs = [path.parent.name for path in tmp_path.glob('*/epoch_1.pth')]
    assert sorted(runs) == ['baseline', 'rescaled', 'wau']


def test_was_run_from_top_to_bottom(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert {out.output_type for out in outputs_of(notebook)} <= {
        'stream',
        'display_data',
        'execute_result',
    }
    assert not [out for out in outputs_of(notebook) if out.get('name') == 'stderr']
    assert len(pictures(notebook)) == 4


def test_says_what_it_shows(notebook):
    """The text about the overlaps is true of those that it printed."""
    overlap = overlaps(notebook)
    assert overlap['WAU'] < 0.95 * overlap['baseline']
    assert abs(overlap['WAU, rescale=True'] - overlap['baseline']) < 0.2 * (
        overlap['baseline'] - overlap['WAU']
    )


def test_is_small_and_names_no_folder_of_a_machine(notebook):
    assert len(TEXT) < 400_000
    words = printed(notebook) + ''.join(cell.source for cell in notebook.cells)
    assert re.findall(r'(?<![\w.)}/])/[a-z]\w*/\S*', words) == []


def test_links_and_commands_work(notebook, tmp_path):
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            for link in pages.links_of(cell.source):
                assert not pages.why_not_a_link(NAME, link), link
            for command in pages.commands_of(NAME, cell.source):
                assert not pages.why_not_a_command(command, tmp_path), command
