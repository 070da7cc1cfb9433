import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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


def test_check_names_what_does_not_import(installer, monkeypatch, capfd):
    monkeypatch.setattr(installer, 'CHECKED_IMPORTS', ('torch', 'no_such_package'))
    venv = installer.Venv(Path(sys.prefix), installer.STACKS['tested'])
    with pytest.raises(SystemExit, match='What is marked MISSING above does not import'):
        installer.check_installation(venv)
    assert 'MISSING: ModuleNotFoundError' in capfd.readouterr().out


def test_pins_are_in_one_place_and_are_what_is_installed(installer):
    found = {one.metadata['Name']: one.version for one in distributions()}
    (stack,) = (stack for stack in installer.STACKS.values() if stack.mmcv in found)
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', stack.constraints.read_text(), re.M))
    assert {'torch', 'torchvision', stack.mmcv, 'numpy', 'setuptools', 'ruff'} < set(pins)
    for package, version in pins.items():
        assert found[package].split('+')[0] == version == stack.pinned_version(package)
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
    assert planned() == '.venv/bin/python -m pytest\n'
    for name in sources:
        os.utime(tmp_path / name, (stamp.stat().st_mtime + 10,) * 2)
        assert planned().startswith('python3 tools/install.py --venv .venv\n')
        os.utime(tmp_path / name, (0, 0))
