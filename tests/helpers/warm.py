"""Runs a script in a process of its own, which has imported the libraries below mmwau already.

Importing torch and MMDetection takes longer than most of what tests do with a script. One process
imports them once; for each script it forks one that becomes it, and imports mmwau itself.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]
PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload(
    [
        *('torch', 'torchvision', 'scipy.stats', 'matplotlib.pyplot', 'rich.console'),
        *('mmengine.runner', 'mmengine.visualization', 'mmdet.apis', 'mmdet.models'),
        *('mmdet.datasets', 'mmdet.engine', 'mmdet.evaluation', 'mmdet.visualization'),
    ]
)


def run_warm(script, arguments, cwd, env):
    """Run a script; return its process and all it printed, as ``subprocess.run`` does."""
    command = [str(script), *map(str, arguments)]
    with tempfile.NamedTemporaryFile() as printed:
        process = PROCESSES.Process(target=become, args=(command, str(cwd), env, printed.name))
        process.start()
        process.join()
        text = Path(printed.name).read_text()
    return subprocess.CompletedProcess(command, process.exitcode, text)


def become(command, cwd, env, printed):
    """Become the script: with its arguments, folder, environment and places to import from."""
    import numpy
    import quick_mmengine  # noqa: F401
    import torch

    output = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = command
    own = [path for path in sys.path if not Path(path).is_relative_to(TESTS)]
    given = filter(None, env.get('PYTHONPATH', '').split(os.pathsep))
    sys.path[:] = [str(Path(command[0]).parent), *given, *own]
    torch.set_num_threads(int(env['OMP_NUM_THREADS']))
    numpy.random.seed()  # else all scripts would draw the same
    runpy.run_path(command[0], run_name='__main__')
