"""docs/model_zoo.md has every config, and the results of the records."""

import importlib.util
import re

import pages
import pytest
from detection import ROOT

from mmwau.experiment.record import TrainingRecord
from mmwau.files.records import read_records

PAGE = (ROOT / 'docs' / 'model_zoo.md').read_text()
TABLES = pages.tables_of(PAGE)


@pytest.fixture(scope='module')
def model_zoo():
    spec = importlib.util.spec_from_file_location('model_zoo', ROOT / 'docs' / 'model_zoo.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_that_of_the_records(model_zoo, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert model_zoo.write_page() == PAGE, 'write it anew: python docs/model_zoo.py'


def test_every_config_with_wau_has_a_row():
    linked = {link.rpartition('/')[2] for link in pages.links_of(PAGE)}
    configs = {path.name for path in (ROOT / 'configs').glob('**/*_wau_*.py')}
    assert len(configs) > 70
    assert configs - linked == set()


def test_a_gap_is_the_mean_over_seeds_of_the_differences():
    """Computed from the record by hand, for both readings on BCCD."""
    records = read_records(TrainingRecord, ROOT / 'docs' / 'results' / 'bccd_cpu.json')
    values = {(one.arm, one.seed): one.values['coco/bbox_mAP'] for one in records}
    for arm in ('WAU', "WAU, authors' code"):
        gap = sum(values[arm, seed] - values['baseline', seed] for seed in range(3)) / 3
        trained = (row for row in TABLES[0][1:] if row[2] != '0')
        (row,) = (row for row in trained if row[1].startswith(f'[{arm}]'))
        assert row[5].startswith(f'{gap:+.3f}'.replace('-', '−'))
        assert row[2] == '3\xa0of\xa03'


def test_what_nobody_has_trained_is_empty_and_says_so(model_zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(model_zoo, 'RESULTS', tmp_path)
    page = model_zoo.write_page()
    rows = [row for table in pages.tables_of(page) for row in table[1:]]
    assert {tuple(row[2:]) for row in rows} == {('0', '–', '–', '–', 'no comparison yet')}
    configs = [path.name for path in (ROOT / 'configs').glob('**/*_wau_*.py')]
    first = [name for name in configs if not re.search('_wau_(authors|layers)_', name)]
    assert len(rows) == len(first)
    assert sum(row[1].count('](') for row in rows) == len(configs)
    # Those that choose learning rates are no results; what is of several data sets is at each.
    suites = {path.stem for path in (ROOT / 'configs' / 'suites').glob('*.py')}
    shown = re.findall(r'suites/(\w+)\.py .*# no results yet$', page, re.MULTILINE)
    assert set(shown) == {name for name in suites if not name.endswith('_rates')}
    assert shown.count('finetune') == 3
    titles = [title for title, _ in model_zoo.DATA.values()]
    assert f'Data without a published comparison yet: {", ".join(titles)}.' in page
