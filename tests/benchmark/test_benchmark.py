"""The benchmark measures what it says; no test looks at a time."""

import io
import json
import logging
import runpy
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
import warm  # noqa: F401  (what a forkserver imports)
from torch import multiprocessing, nn

from mmwau.benchmark import busy, sections
from mmwau.benchmark.bytes_sent import bytes_sent
from mmwau.benchmark.networks import CLASSIFIERS
from mmwau.benchmark.operations import time_convolution

SCRIPT = Path(__file__).parents[2] / 'tools' / 'benchmark.py'


def test_busy_processes_run_beside_the_steps_and_end_with_them(monkeypatch):
    monkeypatch.setattr(busy, 'BUSY', (0, 2))
    # In the place of training: the spin count, and how many other children the parent has.
    monkeypatch.setattr(
        busy,
        'STEPS',
        (
            'import json, os, psutil; parent = psutil.Process(os.getppid()); '
            'print(json.dumps([int(os.environ["GOMP_SPINCOUNT"]) + len(parent.children()) - 1]))'
        ),
    )
    monkeypatch.setenv('OMP_WAIT_POLICY', 'passive')
    ticks, before = [], psutil.Process().children()
    found = busy.time_beside_busy_processes(3, lambda: ticks.append(1))
    others = len(before)
    assert found == {
        '0': {'300000': 300000 + others, '1000': 1000 + others},
        '2': {'300000': 300002 + others, '1000': 1002 + others},
    }
    assert len(ticks) == 12
    assert psutil.Process().children() == before


def test_busy_table_has_the_ratio():
    rows = busy.rows_of({'1': {'300000': 0.8, '1000': 0.2}})
    assert rows == [('1', '800', '200', '0.25')]


@pytest.mark.slow
@pytest.mark.parametrize('ratio', [0.5, 0.25])
def test_two_processes_send_only_active_slices(monkeypatch, ratio):
    from_warm = partial(multiprocessing.start_processes, start_method='forkserver')
    monkeypatch.setattr(multiprocessing, 'spawn', from_warm)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 4, 1))
    sent = bytes_sent(model, 8, ratio)
    assert sent['held layers'] == pytest.approx(ratio)
    if 'wire' in sent:  # with what the processes say beside gradients
        assert sent['wire'] == pytest.approx(ratio, abs=0.1)


@pytest.fixture
def run_script(monkeypatch):
    """Runs the script with these arguments."""
    # What it leaves to the end of its process.
    monkeypatch.setattr(logging.root.manager, 'disable', logging.root.manager.disable)

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name='__main__')

    return run


@pytest.mark.slow
def test_script_prints_the_table_and_writes_json_and_picture(
    tmp_path, monkeypatch, capsys, run_script
):
    monkeypatch.chdir(tmp_path)
    # The sizes make no difference to what is shown.
    small = CLASSIFIERS['resnet20_cifar10']._replace(batch=2)
    monkeypatch.setitem(CLASSIFIERS, 'resnet20_cifar10', small)
    monkeypatch.setattr(sections, 'time_convolution', partial(time_convolution, batch=1))
    run_script(
        *('--quick', '--network', 'resnet20_cifar10', '--sections'),
        *('convolution', 'selection', 'networks', '--arms', 'weight 0.5', 'layers 0.25'),
        *('--threads', '2', '1', '--work-dir', 'results [v1]'),
    )
    told = capsys.readouterr().out
    words = ['128 channels', '100,000 filters', 'layers 0.25', '≤ 0.78', 'threads: 1', 'gathers']
    for each in words:
        assert each in told
    assert 'Everything measured: results [v1]/benchmark.json\n' in told
    assert 'Picture: results [v1]/benchmark.png\n' in told
    results = json.loads((tmp_path / 'results [v1]/benchmark.json').read_text())
    assert set(results) == {'machine', 'arguments', 'convolution', 'selection', 'networks'}
    network = results['networks']['resnet20_cifar10']
    assert list(network['steps']) == ['2', '1']
    for table in network['steps'].values():
        assert list(table) == ['baseline', 'weight 0.5', 'layers 0.25']
        assert table['baseline']['ratios']['training step'] == [1, 1, 1]
        assert table['baseline']['ratios']['processor'] == [1, 1, 1]
        assert table['layers 0.25']['rounds'] == 6
    assert list(network['parts']) == ['weight 0.5', 'layers 0.25']
    assert len(network['weight_gradients']) == 3
    assert list(network['operations']) == ['baseline', 'weight 0.5', 'layers 0.25']
    assert 'operations in a training step' in told
    assert (tmp_path / 'results [v1]/benchmark.png').stat().st_size > 10_000


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--rounds', '5'], '--rounds must be at least 6, got 5: fewer have no interval of 95 %'),
        (['--sections', 'busy machine', '--rounds', '0'], '--rounds must be at least 1, got 0'),
        (['--max-rounds', '9'], '--max-rounds must be at least --rounds, 15, got 9'),
        (['--minutes', 'nan'], '--minutes must be at least 0, got nan'),
        (['--threads', '2', '0'], '--threads must be at least 1, got 0'),
        (['--arms', 'naive'], "invalid choice: 'naive'"),
        (['--sections', 'growth', '--arms', 'weight 0.5'], '--arms chooses among those of'),
        (['--networks', 'vgg'], "invalid choice: 'vgg'"),
    ],
)
def test_wrong_options_are_reported(capsys, run_script, options, words):
    with pytest.raises(SystemExit, match='2'):
        run_script(*options)
    assert words in ' '.join(capsys.readouterr().err.split())


def test_busy_machine_needs_no_interval(tmp_path, monkeypatch, run_script):
    monkeypatch.setattr(busy, 'BUSY', (0,))
    monkeypatch.setattr(busy, 'STEPS', 'print([0.5])')
    run_script('--sections', 'busy machine', '--rounds', '3', '--work-dir', tmp_path)
    results = json.loads((tmp_path / 'benchmark.json').read_text())
    assert results['busy machine'] == {'0': {'300000': 0.5, '1000': 0.5}}


class Full(io.StringIO):
    """Takes the progress, and no table."""

    def write(self, text):
        if 'target' in text:
            raise OSError('No space left on device')
        return super().write(text)


def test_what_was_measured_is_kept_where_nothing_can_be_printed(tmp_path, monkeypatch, run_script):
    monkeypatch.setattr(sys, 'stdout', Full())
    with pytest.raises(OSError, match='No space left'):
        run_script('--quick', '--sections', 'selection', '--work-dir', tmp_path)
    results = json.loads((tmp_path / 'benchmark.json').read_text())
    assert results['arguments']['sections'] == ['selection']
