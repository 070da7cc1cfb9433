"""What docs/speed.md shows of the networks is what was measured."""

import json

import pytest
from detection import ROOT

from mmwau.benchmark.arms import BASELINE, PROCESSOR, STEP_ARMS, WALL
from mmwau.benchmark.networks import NETWORKS

PAGE = (ROOT / 'docs' / 'speed.md').read_text()
MEASURED = json.loads((ROOT / 'docs' / 'benchmark.json').read_text())['networks']


def test_every_network_was_measured():
    assert list(MEASURED) == list(NETWORKS)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize(('threads', 'phase'), [('2', WALL), ('1', PROCESSOR)])
def test_ratios_are_those_of_the_records(name, threads, phase):
    steps = MEASURED[name]['steps'][threads]
    assert list(steps) == list(STEP_ARMS)
    cells = []
    for arm in steps:
        if arm != BASELINE:
            median, low, high = steps[arm]['ratios'][phase]
            note = '' if steps[arm]['settled'][phase] else ' *'
            cells.append(f'{median:.3f} ({low:.3f}, {high:.3f}){note}')
    # The arms with WAU stand in one table, the others in the next.
    for part in (cells[:5], cells[5:]):
        assert f'| {" | ".join(part)} |' in PAGE


@pytest.mark.parametrize('name', NETWORKS)
def test_parts_are_those_of_the_records(name):
    cells = []
    for arm in ('weight 0.5', 'filters 0.5', 'layers 0.5'):
        median, low, high = (100 * share for share in MEASURED[name]['parts'][arm]['share'])
        cells.append(f'{median:.1f} % ({low:.1f}, {high:.1f})')
    assert f'| {" | ".join(cells)} |' in PAGE
