import importlib.util
import os
import pty
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALLER = ROOT / 'tools' / 'install.py'


@pytest.fixture(scope='module')
def installer():
    spec = importlib.util.spec_from_file_location('install', INSTALLER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_names_a_missing_compiler_and_how_to_get_it(tmp_path):
    (tmp_path / 'bin').mkdir()
    done = subprocess.run(
        [sys.executable, INSTALLER, '--venv', tmp_path / 'venv'],
        env={**os.environ, 'PATH': str(tmp_path / 'bin'), 'CXX': 'no-such-compiler'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert '- a C++ compiler, no-such-compiler (Debian, Ubuntu: apt-get install g++)' in done.stderr
    assert not (tmp_path / 'venv').exists()


def test_names_missing_headers_of_python(installer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(installer.sysconfig, 'get_path', lambda name: str(tmp_path))
    with pytest.raises(SystemExit, match=rf"Python's headers, {tmp_path}/Python.h .*apt-get"):
        installer.check_machine(tmp_path / 'venv')


def test_wheels_are_kept_outside_of_the_clone(installer, tmp_path, monkeypatch):
    monkeypatch.delenv('MMWAU_WHEELS', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert installer.wheel_cache() == tmp_path / 'mmwau' / 'wheels'
    monkeypatch.setenv('MMWAU_WHEELS', '/somewhere')
    assert installer.wheel_cache() == Path('/somewhere')


@pytest.fixture
def venv(installer, tmp_path):
    """The environment that the tests run in, with a log of its own; a step has begun."""
    found = installer.Venv(tmp_path, installer.STACKS['tested'], installer.Steps(1))
    found.python = Path(sys.executable)
    found.steps.begin('Something')
    return found


def test_step_is_one_line_and_what_programs_print_is_in_the_log(capfd, venv):
    venv.run([venv.python, '-c', 'print("loud\\n" * 500)'], 'Being loud')
    venv.steps.end('done')
    assert capfd.readouterr() == ('[1/1] Something: done\n', '')
    log = venv.log.read_text()
    assert log.startswith(f'\n$ {venv.python} -c print(')
    assert log.count('loud\n') == 500


def test_error_shows_the_end_of_the_log_and_its_path(capfd, venv, installer):
    with pytest.raises(SystemExit) as stopped:
        venv.pip_install('--no-index', '--verbose', 'no-such-package')
    lines = [line.strip() for line in stopped.value.code.splitlines()]
    assert lines[:2] == ['', 'Installation stopped.']
    assert 'ERROR: No matching distribution found for no-such-package' in lines
    assert lines[-2:] == [
        'Installing --no-index --verbose no-such-package failed (exit status 1).',
        f'The whole output is in {venv.log}',
    ]
    assert len(lines) <= installer.LOG_LINES + 5
    assert capfd.readouterr() == ('[1/1] Something: failed\n', '')


def test_terminal_shows_the_time_and_what_is_done(tmp_path):
    code = (
        f'import runpy, sys; install = runpy.run_path({str(INSTALLER)!r}); '
        f'venv = install["Venv"](install["Path"]({str(tmp_path)!r}), install["STACKS"]["tested"], '
        'install["Steps"](1)); venv.steps.begin("Something"); '
        'venv.run([sys.executable, "-c", "import time; print(\'Collecting torch\', flush=True); '
        'time.sleep(1.5)"], "It"); venv.steps.end("done")'
    )
    terminal, other_end = pty.openpty()
    subprocess.run([sys.executable, '-c', code], stdout=other_end, check=True)
    os.close(other_end)
    lines = os.read(terminal, 10_000).decode().split('\r\x1b[K')
    assert lines[0] == '[1/1] Something'
    assert lines[-2] == '[1/1] Something  0:01  Collecting torch'
    assert lines[-1] == '[1/1] Something: done\r\n'


def test_check_names_what_does_not_import(venv, installer, monkeypatch):
    monkeypatch.setattr(installer, 'CHECKED_IMPORTS', ('json', 'no_such_package'))
    with pytest.raises(SystemExit) as stopped:
        installer.check_installation(venv)
    told = stopped.value.code
    assert "no_such_package  MISSING: ModuleNotFoundError: No module named 'no_such" in told
    assert 'What is marked MISSING above does not import' in told
    assert 'json' not in told


def test_check_tells_versions(venv, installer, monkeypatch):
    monkeypatch.setattr(installer, 'CHECKED_IMPORTS', ('numpy', 'json'))
    monkeypatch.setattr(installer, 'SHOWN', ('numpy',))
    assert installer.check_installation(venv) == f'numpy {version("numpy")}'


def test_value_is_found_among_what_torch_says(venv):
    release, _, _ = venv.evaluate('torch.__version__').partition('+')
    assert release == version('torch').partition('+')[0]


def test_pins_are_in_one_place_and_are_what_is_installed(installer):
    found = {one.metadata['Name']: one.version for one in distributions()}
    (stack,) = (stack for stack in installer.STACKS.values() if stack.mmcv in found)
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', stack.constraints.read_text(), re.M))
    assert {'torch', 'torchvision', stack.mmcv, 'numpy', 'setuptools', 'ruff'} < set(pins)
    for package, pin in pins.items():
        assert found[package].split('+')[0] == pin == stack.pinned_version(package)
    others = [path for path in ROOT.glob('*.toml') if pins[stack.mmcv] in path.read_text()]
    assert others == []
    with pytest.raises(SystemExit, match='has no line "nothing==<version>"'):
        stack.pinned_version('nothing')


def test_second_run_of_make_installs_nothing(tmp_path):
    """The project's Makefile on files that are older than the installation, then newer."""
    sources = ('pyproject.toml', 'setup.py', 'requirements/tested.txt', 'tools/install.py')
    stamp = tmp_path / '.venv' / '.installed'
    for path in (*(tmp_path / name for name in sources), stamp):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    shutil.copy(ROOT / 'Makefile', tmp_path)
    command = ['make', '--no-print-directory', '--dry-run', 'test', 'PYTHON=python3']

    def planned():
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout

    os.utime(stamp, (stamp.stat().st_mtime + 10,) * 2)
    assert planned() == '.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder\n'
    for name in sources:
        os.utime(tmp_path / name, (stamp.stat().st_mtime + 10,) * 2)
        assert planned().startswith('python3 tools/install.py --venv .venv\n')
        os.utime(tmp_path / name, (0, 0))
