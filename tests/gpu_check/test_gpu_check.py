"""The check of a machine with a GPU, in the tiny form that a CPU can do."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest
import torch
from detection import ROOT, run
from torch import multiprocessing, nn

from mmwau import find_layers
from mmwau.gpu_check import check, ops, profile, speed
from mmwau.gpu_check.bits import HeldBits
from mmwau.gpu_check.part import FAILED, NOT_POSSIBLE, PARTS, PASSED, RESULT, Part, Place, do_part
from mmwau.gpu_check.tests import run_tests

SCRIPT = ROOT / 'tools' / 'gpu_check.py'


@pytest.fixture
def place(tmp_path):
    return Place(torch.device('cpu'), tmp_path)


@pytest.fixture
def on_a_gpu(tmp_path):
    return Place(torch.device('cuda'), tmp_path)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('float16', 'kept every bit in 36 updates, and everything did in the 12 of'),
        ('bfloat16', 'kept every bit in 36 updates, and everything did in the 12 of'),
        ('MMEngine', "float32: 6 updates, 0 skipped (in float32, since MMEngine's mixed"),
        ('memory', 'layers 0.5: '),
        ('profile', 'weight 0.5: '),
        pytest.param('demo', 'float32: 2 updates, 0 skipped, loss', marks=pytest.mark.slow),
        pytest.param('processes', '(gloo on the CPU, without Sync', marks=pytest.mark.slow),
    ],
)
def test_part_is_done_on_the_cpu_too(place, monkeypatch, name, words):
    from_warm = partial(multiprocessing.start_processes, start_method='forkserver')
    monkeypatch.setattr(multiprocessing, 'spawn', from_warm)
    done = do_part(name, place)
    assert done['status'] == PASSED, done
    assert words in done['told']


def test_what_is_compiled_is_the_training_step(place, monkeypatch):
    """Compiled trainings are those of tests/engine; here is what is to be compiled."""
    compiled = []

    def compile_nothing(function, **options):
        compiled.append((function.__name__, options))
        return function

    monkeypatch.setattr(torch, 'compile', compile_nothing)
    done = do_part('compile', place)
    assert done['status'] == PASSED, done
    assert "in 6 updates with compile={'backend': 'eager'}" in done['told']
    assert compiled == [('train_step', dict(backend='eager'))]


def test_benchmark_is_that_of_the_script(place, monkeypatch):
    """The script itself is run in tests/benchmark; here its options are read."""
    asked = []

    read = runpy.run_path

    def run_nothing(path, run_name):
        asked.append(read(path)['parse_args']())
        step = {'training step': [1.02, 1.0, 1.04]}
        table = {arm: dict(ratios=step, seconds={'training step': 0.5}) for arm in asked[0].arms}
        counts = {'baseline': {'a': 9}, 'weight 0.5': {'a': 14}}
        networks = {name: dict(steps={'1': table}, operations=counts) for name in asked[0].networks}
        (asked[0].work_dir / 'benchmark.json').write_text(json.dumps(dict(networks=networks)))

    monkeypatch.setattr(speed.runpy, 'run_path', run_nothing)
    done = do_part('benchmark', place)
    assert done['status'] == PASSED, done
    assert done['told'] == (
        'step of resnet20_cifar10 500.0 ms, ratios weight 0.5: 1.020 (1.000 to 1.040), '
        '+5 operations'
    )
    assert asked[0].sections == ['networks']


def test_what_needs_a_gpu_says_so(place, on_a_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)
    for name, where, reason in [
        ('processes', on_a_gpu, 'it takes two GPUs, and there is one'),
        ('bfloat16', on_a_gpu, 'this GPU has no bfloat16'),
        ('detector', place, 'on a CPU it takes a quarter of an hour: tools/benchmark.py'),
    ]:
        done = do_part(name, where)
        assert (done['status'], done['told']) == (NOT_POSSIBLE, reason)


def test_what_is_not_installed_is_named(place, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmengine', None)
    for part in ('runner', 'speed', 'profile'):
        monkeypatch.delitem(sys.modules, f'mmwau.gpu_check.{part}', raising=False)
    done = do_part('MMEngine', place)
    assert (done['status'], done['told']) == (NOT_POSSIBLE, 'mmengine is not installed')


def test_a_detector_needs_the_ops_of_mmcv(place, on_a_gpu, monkeypatch):
    assert ops.why_no_ops(place.device) == ''
    monkeypatch.setitem(sys.modules, 'mmcv.ops', None)
    for name, where in [('demo', place), ('detector', on_a_gpu)]:
        done = do_part(name, where)
        assert done['status'] == NOT_POSSIBLE
        assert done['told'].startswith("mmcv's ops do not work here (ModuleNotFoundError: ")


def test_a_part_that_fails_says_why(place, monkeypatch):
    monkeypatch.setitem(PARTS, 'MMEngine', Part('runner.train_nothing', 1))
    done = do_part('MMEngine', place)
    assert done['status'] == FAILED
    assert done['told'].startswith('AttributeError: ')


def test_a_bit_that_moved_is_found():
    conv = nn.Conv2d(3, 4, 1)
    bits = HeldBits(find_layers(conv))
    mask = torch.tensor([True, False, True, False])

    def change(index):
        bits.start()
        with torch.no_grad():
            conv.weight[index] *= -1
        return bits

    change(0).check([mask])
    with pytest.raises(
        AssertionError, match=r'1 of 4 slices of \.weight moved .*, which held them'
    ):
        change(1).check([mask])
    with pytest.raises(AssertionError, match='which was skipped'):
        change(0).check([mask], is_skipped=True)
    with pytest.raises(AssertionError, match='nothing moved in update 1'):
        change([]).check([mask])
    change([]).check([mask], is_skipped=True)
    assert (bits.updates, bits.skipped) == (2, 1)


def test_tests_are_counted(place, monkeypatch):
    folder = place.folder / 'own'
    folder.mkdir()
    (folder / 'test_own.py').write_text(
        'import pytest\n'
        'def test_one():\n    assert False\n'
        "@pytest.mark.skip(reason='no')\ndef test_two():\n    pass\n"
    )
    monkeypatch.setattr(run_tests, '__defaults__', (folder,))
    done = do_part('tests', place)
    assert (done['status'], done['told']) == (
        FAILED,
        'AssertionError: 1 of 2 tests failed: test_one',
    )
    # The report is there already; now all is well.
    monkeypatch.setattr(
        subprocess, 'run', lambda command, **_: subprocess.CompletedProcess(command, 0, '')
    )
    assert do_part('tests', place)['told'] == '1 tests passed, 1 were skipped'


@pytest.mark.parametrize('name', ['conftest.py', 'test_own.py'])
def test_tests_that_lack_a_package_name_it(place, monkeypatch, name):
    folder = place.folder / 'own'
    folder.mkdir()
    (folder / name).write_text('import no_such_package\n')
    monkeypatch.setattr(run_tests, '__defaults__', (folder,))
    done = do_part('tests', place)
    assert (done['status'], done['told']) == (NOT_POSSIBLE, 'no_such_package is not installed')


def test_tests_are_those_of_the_repository(place):
    with pytest.raises(Exception, match=r'there is no .*: it is in a clone of the repository'):
        run_tests(place, place.folder / 'nowhere')


def event(name, kind, start, end):
    return dict(name=name, cat=kind, ts=1000.0 * start, dur=1000.0 * (end - start))


def test_trace_tells_what_is_done_at_the_same_time():
    found = profile.read_trace(
        [
            event(profile.STEP, 'user_annotation', 0, 100),
            event('WAU: indices', 'user_annotation', 10, 30),
            event('WAU: gathers', 'user_annotation', 20, 30),  # inside of it
            event('WAU: indices', 'gpu_user_annotation', 0, 100),
            event('sgemm', 'kernel', 20, 40),
            event('add', 'kernel', 35, 70),  # on another stream
            event('cudaStreamSynchronize', 'cuda_runtime', 25, 26),
            event('cudaStreamSynchronize', 'cuda_runtime', 90, 91),  # not in a part of WAU
            dict(name='process_name', ph='M'),
        ]
    )
    assert found == {
        'step ms': 20,
        'parts ms': 4,
        'busy': 0.5,
        'overlapped': 0.5,
        'kernels': 0.4,
        'waits': 1,
    }


def test_a_wait_in_a_part_is_a_failure(place, monkeypatch):
    read = profile.read_trace
    monkeypatch.setattr(profile, 'read_trace', lambda events: dict(read(events), waits=2))
    done = do_part('profile', place)
    assert done['status'] == FAILED
    assert 'the CPU waits for the GPU in parts of WAU: ' in done['told']


@pytest.mark.slow
def test_script_does_the_parts_and_reports(tmp_path):
    arguments = ['--device', 'cpu', '--parts', 'bfloat16', 'detector', '--out', 'found here']
    done = run([sys.executable, SCRIPT, *arguments], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout
    assert 'bfloat16   passed' in done.stdout
    assert 'because on a CPU it takes' in done.stdout
    assert '1 passed, 0 failed, 1 not possible. Report: ' in done.stdout
    report = json.loads((tmp_path / 'found here' / 'gpu_check.json').read_text())
    assert report['machine']['torch'] == torch.__version__
    assert {name: part['status'] for name, part in report['parts'].items()} == {
        'bfloat16': PASSED,
        'detector': NOT_POSSIBLE,
    }
    text = (tmp_path / 'found here' / 'gpu_check.txt').read_text()
    assert all(line in done.stdout for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ('package', 'passes', 'lacks'),
    [('rich', 'bfloat16', ['benchmark']), ('matplotlib', 'memory', ['MMEngine', 'benchmark'])],
)
def test_a_package_that_is_missing_is_named_and_the_others_go_on(tmp_path, package, passes, lacks):
    """MMEngine can't be imported without rich; what draws or trains with hooks needs Matplotlib."""
    text = f'raise ModuleNotFoundError("No module named {package!r}", name={package!r})'
    (tmp_path / 'lacks').mkdir()
    (tmp_path / 'lacks' / f'{package}.py').write_text(text)
    command = [sys.executable, SCRIPT, '--device', 'cpu', '--out', 'found']
    command += ['--parts', *lacks, passes]
    done = run(command, tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path / 'lacks'), str(ROOT)]))
    assert done.returncode == 0, done.stdout
    report = json.loads((tmp_path / 'found' / 'gpu_check.json').read_text())['parts']
    told = {name: (part['status'], part['told']) for name, part in report.items()}
    assert told.pop(passes)[0] == PASSED
    assert told == dict.fromkeys(lacks, (NOT_POSSIBLE, f'{package} is not installed'))


def parts_of(names, folder, minutes=1.0):
    return dict(check.run_parts(names, torch.device('cpu'), folder, minutes))


def test_a_process_that_ends_before_its_part_has_failed(tmp_path, monkeypatch):
    monkeypatch.setitem(check.PARTS, 'unknown', Part('runner.train_nothing', 1))
    monkeypatch.setattr(sys, 'executable', '/bin/false')
    (told,) = parts_of(['unknown'], tmp_path).values()
    assert told['status'] == FAILED
    assert told['told'].startswith('its process ended with status 1 (all of it: ')


def test_nothing_of_an_earlier_check_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'executable', '/bin/false')
    own = tmp_path / 'parts' / 'float16'
    parts_of(['float16'], tmp_path)
    (own / RESULT).write_text('{"status": "passed", "told": "earlier", "values": {}}')
    # A folder that is not of this tool keeps what it has.
    other = tmp_path / 'parts' / 'bfloat16' / 'mine.txt'
    other.parent.mkdir()
    other.write_text('mine')
    found = parts_of(['float16', 'bfloat16'], tmp_path)
    assert [part['status'] for part in found.values()] == [FAILED, FAILED]
    assert other.read_text() == 'mine'


def started_by(folder):
    """The processes of parts that work in a folder."""
    return [
        process
        for process in psutil.process_iter(['cmdline'])
        if {'mmwau.gpu_check', str(folder)} <= set(process.info['cmdline'] or ())
    ]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_check_that_is_stopped_leaves_nothing_running(tmp_path, number):
    command = [sys.executable, str(SCRIPT), '--device', 'cpu', '--parts', 'processes']
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    # Whoever runs the tests in the background may have SIGINT ignored.
    plain = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    tool = subprocess.Popen([*command, '--out', str(tmp_path)], env=env, preexec_fn=plain)
    folder, end = tmp_path / 'parts' / 'processes', time.monotonic() + 60
    while not started_by(folder) and time.monotonic() < end:
        time.sleep(0.05)
    assert started_by(folder)
    tool.send_signal(number)
    assert tool.wait(30) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert not started_by(folder)


def test_a_part_that_hangs_is_ended(tmp_path, monkeypatch):
    (tmp_path / 'hangs').write_text('#!/bin/sh\nsleep 100\n')
    (tmp_path / 'hangs').chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(tmp_path / 'hangs'))
    short = {name: one._replace(minutes=0.005) for name, one in check.PARTS.items()}
    with monkeypatch.context() as patched:
        patched.setattr(check, 'PARTS', short)
        found = parts_of(['float16'], tmp_path / 'out', minutes=1)
    assert found['float16']['told'].startswith('it was not done after 0 seconds')
    assert found['float16']['status'] == FAILED
    # What the whole check has no time for has not failed.
    found = parts_of(['float16', 'bfloat16'], tmp_path / 'out', minutes=0.005)
    assert found['float16']['told'] == 'the 0.005 minutes were over before it was done'
    assert found['float16']['status'] == NOT_POSSIBLE
    assert found['bfloat16']['status'] == NOT_POSSIBLE
    assert 'minutes are over: --parts "bfloat16" does it alone' in found['bfloat16']['told']


def test_a_failure_is_the_exit_status(tmp_path, monkeypatch, capsys):
    failed = dict(status=FAILED, told='it is broken', values={}, seconds=1.2)
    monkeypatch.setattr(check, 'run_parts', lambda names, *_: [(name, failed) for name in names])
    arguments = ['gpu_check.py', '--device', 'cpu', '--parts', 'demo', '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(SystemExit, match='1'):
        runpy.run_path(str(SCRIPT), run_name='__main__')
    assert 'demo       failed           1 s  it is broken\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--minutes', '0'], '--minutes must be above 0, got 0.0'),
        (['--parts', 'all'], "invalid choice: 'all'"),
        pytest.param(
            ['--device', 'cuda'],
            '--device cuda: PyTorch finds no GPU here',
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason='there is one'),
        ),
    ],
)
def test_wrong_options_are_reported(capsys, options, words):
    with pytest.raises(SystemExit, match='2'):
        runpy.run_path(str(SCRIPT))['parse_args'](options)
    assert words in ' '.join(capsys.readouterr().err.split())
