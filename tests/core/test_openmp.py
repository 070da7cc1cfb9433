"""How OpenMP's threads wait is set before torch brings libgomp, and only where nobody chose."""

import json
import os
import re
import subprocess
import sys

import pytest
from detection import ROOT

# Scripts that load torch; the installer is there to get it.
SCRIPTS = sorted(
    path
    for folder in ('tools', 'examples')
    for path in (ROOT / folder).glob('**/*.py')
    if path.name != 'install.py'
)
CHOICES = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')
# Runs each script up to its first import of torch, and keeps what the environment has there.
UP_TO_TORCH = """
import importlib.abc, json, os, runpy, sys

class Torch(BaseException):
    pass

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'torch':
            raise Torch

sys.meta_path.insert(0, Finder())
known, seen = set(sys.modules), {}
for script in sys.argv[1:]:
    os.environ.pop('GOMP_SPINCOUNT', None)
    for name in set(sys.modules) - known:
        del sys.modules[name]
    try:
        runpy.run_path(script)
    except Torch:
        seen[script] = os.environ.get('GOMP_SPINCOUNT')
print(json.dumps(seen))
"""


def run(*command, **environment):
    """Run Python where nobody chose, but for what is given."""
    env = {name: value for name, value in os.environ.items() if name not in CHOICES}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**env, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )


def test_every_script_sets_it_before_torch_is_imported():
    assert len(SCRIPTS) > 10
    done = run('-c', UP_TO_TORCH, *SCRIPTS)
    seen = json.loads(done.stdout)
    assert seen == {str(path): '1000' for path in SCRIPTS}


@pytest.mark.parametrize(
    ('chosen', 'expected'),
    [
        ({}, '1000'),
        ({'GOMP_SPINCOUNT': '7'}, '7'),
        ({'OMP_WAIT_POLICY': 'passive'}, None),
        ({'OMP_WAIT_POLICY': 'active'}, None),
    ],
    ids=str,
)
def test_who_set_one_of_them_has_chosen(chosen, expected):
    told = 'import json, os; print(json.dumps(os.environ.get("GOMP_SPINCOUNT")))'
    done = run('-c', f'exec(open("mmwau/core/openmp.py").read()); {told}', **chosen)
    assert json.loads(done.stdout) == expected


def test_libgomp_reads_it():
    # Without MMEngine, which takes long, mmwau imports torch alone.
    code = 'import sys; sys.modules["mmengine"] = None; import mmwau'
    done = run('-c', code, OMP_DISPLAY_ENV='verbose')
    read = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if not read:
        pytest.skip('this torch does not bring libgomp')
    assert set(read) == {'1000'}


def test_the_tests_run_with_it_and_so_does_what_they_start():
    assert any(name in os.environ for name in CHOICES)
