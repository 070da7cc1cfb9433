"""Install mmwau and an OpenMMLab stack into a virtual environment, one line a step.

Needs Python's standard library alone. The one slow step is compiling mmcv's ops, about 13 minutes
on 2 cores. The wheel is kept for the next installation, outside the clone, in a folder that names
what it was built for: pip's own cache does not know which torch a wheel was compiled against.
"""

from __future__ import annotations  # what runs this may be too old, and is told so

import argparse
import collections
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
BUILD_TOOLS = ('setuptools', 'wheel', 'packaging', 'ninja', 'psutil', 'cython')
# Of these the versions are shown too, in this order.
SHOWN = ('torch', 'mmcv', 'mmcv.ops', 'mmdet', 'mmpretrain', 'mmwau')
CHECKED_IMPORTS = (*SHOWN, 'torchvision', 'mmengine', 'pycocotools.mask')
# Imports each of its arguments, and prints its version or why it can't be imported.
CHECK = """
import importlib, sys, warnings
warnings.simplefilter('ignore')
for name in sys.argv[1:]:
    try:
        note = getattr(importlib.import_module(name), '__version__', 'ok')
    except Exception as error:
        note = f'MISSING: {type(error).__name__}: {error}'
    print('checked:', name, note)
"""


class Stack(NamedTuple):
    """The OpenMMLab packages under one of their distribution names.

    Attributes:
        constraints: File that pins their versions.
        mmcv: The distribution that has mmcv.
        packages: What is installed beside torch and mmcv, with mmwau itself.
        built_here: Packages of MMPose that are built with what is installed: the wheel of one is
            for numpy 1, and the other needs pip to build.
    """

    constraints: Path
    mmcv: str
    packages: tuple[str, ...]
    built_here: tuple[str, ...] = ()

    def pinned_version(self, package: str) -> str:
        """Version of ``package`` in the constraints."""
        pin = re.search(rf'^{re.escape(package)}==(\S+)$', self.constraints.read_text(), re.M)
        if pin is None:
            fail(f'{self.constraints} has no line "{package}==<version>".')
        return pin.group(1)


PINS = ROOT / 'requirements'
EXTRAS = 'detection,classification,segmentation,rotate,pose,analysis,dev,docs'
OURS = ('-e', f'.[{EXTRAS}]')
UPSTREAM = ('mmengine', 'mmdet', 'mmpretrain', 'pycocotools', '-e', '.[analysis,dev]')
STACKS = {
    'tested': Stack(PINS / 'tested.txt', 'onedl-mmcv', OURS, ('xtcocotools', 'chumpy')),
    'upstream': Stack(PINS / 'upstream.txt', 'mmcv', UPSTREAM),
}
DISK_NEEDED = 12  # GiB
LOG_LINES = 20
ERASE = '\r\x1b[K'


class Steps:
    """Shows the installation on the screen, one line a step.

    On a terminal the line of the step that runs has its time and what is being done; elsewhere the
    line is completed at its end.

    Args:
        count: Number of steps.
    """

    def __init__(self, count: int):
        self.count, self.number, self.live = count, 0, sys.stdout.isatty()

    def begin(self, text: str) -> None:
        """Start the line of a step."""
        self.number += 1
        self.text, self.detail = f'[{self.number}/{self.count}] {text}', ''
        self.start = time.monotonic()
        print(self.text, end='', flush=True)
        if self.live:
            self._ended = threading.Event()
            threading.Thread(target=self._renew, args=(self._ended,), daemon=True).start()

    def _renew(self, ended: threading.Event) -> None:
        while not ended.wait(0.5):
            minutes, seconds = divmod(int(time.monotonic() - self.start), 60)
            line = f'{self.text}  {minutes}:{seconds:02}  {self.detail}'
            print(ERASE + line[: shutil.get_terminal_size().columns - 1], end='', flush=True)

    def end(self, note: str = '') -> None:
        """End the line of a step with a note and, where it took a while, the time."""
        seconds = time.monotonic() - self.start
        took = f' ({seconds / 60:.1f} min)' if seconds >= 30 else ''
        line = f'{": " if note else ""}{note}{took}'
        if self.live:
            self._ended.set()
            line = f'{ERASE}{self.text}{line}'
        print(line, flush=True)


def fail(*lines: str) -> NoReturn:
    """Stop with a message that names what is missing and how to get it."""
    sys.exit('\n'.join(['', 'Installation stopped.', *(f'  {line}' for line in lines)]))


def wheel_cache() -> Path:
    """Folder that keeps compiled wheels between installations."""
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(os.environ.get('MMWAU_WHEELS') or Path(cache) / 'mmwau' / 'wheels')


def check_machine(venv: Path) -> None:
    """Name everything that is missing for the installation, all at once."""
    missing = []
    if sys.version_info < (3, 10):  # noqa: UP036  (what runs this may be older)
        missing.append(
            f'Python 3.10 or newer; this is {platform.python_version()} ({sys.executable}). '
            'Name another one: make install PYTHON=/path/to/python3.11'
        )
    if not (find_spec('ensurepip') and find_spec('venv')):
        missing.append('the module venv with pip (Debian, Ubuntu: apt-get install python3-venv)')
    compiler = os.environ.get('CXX', 'g++')
    if shutil.which(compiler) is None and shutil.which('c++') is None:
        missing.append(f'a C++ compiler, {compiler} (Debian, Ubuntu: apt-get install g++)')
    headers = Path(sysconfig.get_path('include')) / 'Python.h'
    if not headers.is_file():
        missing.append(
            f"Python's headers, {headers} (Debian, Ubuntu: apt-get install "
            f'python{sys.version_info.major}.{sys.version_info.minor}-dev)'
        )
    cuda = os.environ.get('CUDA_HOME', '/usr/local/cuda')
    if shutil.which('nvidia-smi') and not (shutil.which('nvcc') or Path(cuda, 'bin/nvcc').exists()):
        missing.append(
            'the CUDA toolkit (nvcc), with which the ops of mmcv are compiled for this GPU: see '
            'developer.nvidia.com/cuda-toolkit, then name its folder in CUDA_HOME'
        )
    free = shutil.disk_usage(venv.parent).free / 2**30
    if not venv.exists() and free < DISK_NEEDED:
        missing.append(f'{DISK_NEEDED} GiB of free disk at {venv.parent} ({free:.1f} GiB are free)')
    if missing:
        fail('This machine lacks:', *(f'- {item}' for item in missing))


def shown_of_pip(line: str) -> str | None:
    """A line of pip's output that says what it does, None for others."""
    return line.strip() if re.match(r'\s*(Building|Collecting|Downloading|Inst)', line) else None


class Venv:
    """The virtual environment that everything goes into."""

    def __init__(self, folder: Path, stack: Stack, steps: Steps):
        self.stack, self.steps = stack, steps
        self.python = folder / 'bin' / 'python'
        self.log = folder / 'install.log'
        self.env = {
            **os.environ,
            'PATH': f'{folder / "bin"}{os.pathsep}{os.environ["PATH"]}',
            'VIRTUAL_ENV': str(folder),
            'PIP_DISABLE_PIP_VERSION_CHECK': '1',
        }

    def make(self) -> None:
        """Make it, if it is not there, and begin a new log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text('')
        if not self.python.exists():
            command = [sys.executable, '-m', 'venv', self.log.parent]
            self.run(command, 'Creating the virtual environment')

    def run(
        self, command: list, what: str, show: Callable[[str], str | None] = shown_of_pip, **env: str
    ) -> None:
        """Run a command, its output into the log; stop with the last lines of it if it fails.

        ``what`` names it in the message. ``show`` gives what a line of its output tells for the
        screen, None for nothing new.
        """
        command = [str(part) for part in command]
        last_lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        with open(self.log, 'a') as log:
            print(f'\n$ {" ".join(command)}', file=log, flush=True)
            both: dict = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            process = subprocess.Popen(
                command, env={**self.env, **env}, cwd=ROOT, text=True, errors='replace', **both
            )
            assert process.stdout is not None  # a pipe
            for line in process.stdout:
                log.write(line)
                last_lines.append(line.rstrip())
                self.steps.detail = show(line) or self.steps.detail
        if process.wait():
            self.fail(f'{what} failed (exit status {process.returncode}).', last_lines)

    def fail(self, what: str, last_lines: Iterable[str], *advice: str) -> NoReturn:
        """Stop with the last lines of the log and its path."""
        self.steps.end('failed')
        fail(*last_lines, '', what, *advice, f'The whole output is in {self.log}')

    def pip_install(self, *arguments: str) -> None:
        """Install with pip under the constraints of the stack."""
        pip = [self.python, '-m', 'pip', 'install', '-c', self.stack.constraints]
        self.run([*pip, *arguments], f'Installing {" ".join(arguments)}')

    def evaluate(self, expression: str) -> str:
        """Value of a Python expression over torch, as text."""
        said: list[str] = []
        code = f'import torch; print("value:", {expression})'
        self.run([self.python, '-c', code], 'Importing torch', said.append)
        return next(line for line in said if line.startswith('value: ')).split()[1]


def mmcv_wheel(venv: Venv) -> tuple[Path, str]:
    """The compiled mmcv wheel for this Python and torch, and where it comes from.

    It is built unless it is kept already.
    """
    version = venv.stack.pinned_version(venv.stack.mmcv)
    torch_version = venv.evaluate('torch.__version__')
    device = 'cpu'
    if venv.evaluate('torch.cuda.is_available()') == 'True':
        device = venv.evaluate('"sm%d%d" % torch.cuda.get_device_capability()')
    key = (
        f'python{sys.version_info.major}.{sys.version_info.minor}-torch{torch_version}'
        f'-mmcv{version}-{device}-{platform.machine()}'
    )
    folder = wheel_cache() / key
    kept = sorted(folder.glob('*.whl'))
    if kept:
        return kept[0], f'from {wheel_cache()}'
    folder.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there when whole: an interrupted build leaves no wheel.
    with tempfile.TemporaryDirectory(dir=folder) as build:
        build_mmcv(venv, version, Path(build))
        (wheel,) = Path(build).glob('*.whl')
        return wheel.replace(folder / wheel.name), f'the wheel is kept in {wheel_cache()}'


def build_mmcv(venv: Venv, version: str, folder: Path) -> None:
    """Compile mmcv's ops into a wheel in ``folder``, showing progress and time left."""
    command = [venv.python, '-m', 'pip', 'wheel', '-v', '-w', folder, '--no-cache-dir']
    command += ['--no-build-isolation', '--no-deps', f'{venv.stack.mmcv}=={version}']
    jobs = os.environ.get('MAX_JOBS', str(os.cpu_count() or 1))
    start, tenths = time.monotonic(), 0

    def show(line: str) -> str | None:
        nonlocal tenths
        step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
        if step is None:
            return None
        done, total = int(step.group(1)), int(step.group(2))
        if not venv.steps.live and done * 10 // total > tenths:
            # A sign of life for services that end a job that is silent for minutes.
            tenths = done * 10 // total
            print('.', end='', flush=True)
        left = (time.monotonic() - start) / done * (total - done)
        return f'{done}/{total} files, about {left / 60:.0f} min left'

    venv.run(command, 'Compiling the ops of mmcv', show, MMCV_WITH_OPS='1', MAX_JOBS=jobs)


def check_installation(venv: Venv) -> str:
    """Import everything that mmwau needs, tell versions; stop with what does not import."""
    said: list[str] = []
    command = [venv.python, '-c', CHECK, *CHECKED_IMPORTS]
    venv.run(command, 'Importing what was installed', said.append)
    found = dict(line.split(maxsplit=2)[1:] for line in said if line.startswith('checked: '))
    missing = [f'{name}  {note.strip()}' for name, note in found.items() if 'MISSING' in note]
    if missing:
        venv.fail(
            'What is marked MISSING above does not import: run `make clean install`.',
            missing,
            f'If it is mmcv.ops, its wheel does not fit this torch: remove {wheel_cache()} before',
        )
    return ', '.join(f'{name} {found[name].strip()}' for name in SHOWN)


def main() -> None:
    """Run the five steps of the installation, each safe to repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    place = 'virtual environment to install into (default: .venv)'
    add('--venv', type=Path, default=Path('.venv'), help=place)
    pins = 'OpenMMLab packages: tested (default), those of requirements/tested.txt, or upstream'
    add('--stack', choices=list(STACKS), default='tested', help=pins)
    args = parser.parse_args()
    folder, stack = args.venv.absolute(), STACKS[args.stack]
    start, steps = time.monotonic(), Steps(5)
    venv = Venv(folder, stack, steps)
    check_machine(folder)
    print(f'Installing 7 GB into {folder}, the first time about 16 minutes; log: {venv.log}')
    steps.begin('Virtual environment')
    venv.make()
    steps.end(f'Python {platform.python_version()}, {os.cpu_count()} cores')
    steps.begin('PyTorch, to train networks')
    venv.pip_install('torch', 'torchvision', *BUILD_TOOLS)
    steps.end()
    steps.begin('mmcv, compiled, to detect')
    wheel, origin = mmcv_wheel(venv)
    venv.pip_install(str(wheel))
    steps.end(origin)
    steps.begin('MMDetection, MMPreTrain and others for models; mmwau')
    if stack.built_here:
        venv.pip_install('--no-build-isolation', *stack.built_here)
    venv.pip_install(*stack.packages)
    steps.end()
    steps.begin('Check')
    steps.end(check_installation(venv))
    print(f'Installed in {(time.monotonic() - start) / 60:.1f} min.', flush=True)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('\nStopped. Started again, it goes on with what is installed already.')
