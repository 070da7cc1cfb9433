"""Install mmwau and an OpenMMLab stack into a virtual environment.

Needs Python's standard library alone. The one slow step is compiling mmcv's ops
(NMS, RoIAlign, ...), about 13 minutes on 2 cores. The wheel is kept outside the
clone, in a folder that names the Python, torch and mmcv it was built for, so that
the next installation takes it from there: pip's own cache does not know which
torch a wheel was compiled against.
"""

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
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BUILD_TOOLS = ('setuptools', 'wheel', 'packaging', 'ninja', 'psutil')
CHECKED_IMPORTS = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmcv.ops', 'mmdet',
                   'mmpretrain', 'pycocotools.mask', 'mmwau')  # fmt: skip


class Stack(NamedTuple):
    """The OpenMMLab packages under one of their distribution names.

    Attributes:
        constraints: File that pins their versions.
        mmcv: The distribution that has mmcv.
        packages: What is installed beside torch and mmcv, with mmwau itself.
    """

    constraints: Path
    mmcv: str
    packages: tuple[str, ...]

    def pinned_version(self, package: str) -> str:
        """Version of ``package`` in the constraints."""
        pin = re.search(rf'^{re.escape(package)}==(\S+)$', self.constraints.read_text(), re.M)
        if pin is None:
            fail(f'{self.constraints} has no line "{package}==<version>".')
        return pin.group(1)


STACKS = {
    'tested': Stack(
        constraints=ROOT / 'requirements' / 'tested.txt',
        mmcv='onedl-mmcv',
        packages=('-e', '.[detection,classification,analysis,dev,docs]'),
    ),
    'upstream': Stack(
        constraints=ROOT / 'requirements' / 'upstream.txt',
        mmcv='mmcv',
        packages=('mmengine', 'mmdet', 'mmpretrain', 'pycocotools', '-e', '.[analysis,dev]'),
    ),
}
GIBIBYTE = 2**30
DISK_NEEDED = 12 * GIBIBYTE


def say(text: str) -> None:
    """Print a line at once, between the outputs of child processes."""
    print(text, flush=True)


def fail(*lines: str) -> None:
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
    try:
        import ensurepip  # noqa: F401
        import venv as _  # noqa: F401
    except ImportError:
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
    free = shutil.disk_usage(venv.parent).free
    if not venv.exists() and free < DISK_NEEDED:
        missing.append(
            f'{DISK_NEEDED // GIBIBYTE} GiB of free disk at {venv.parent} '
            f'({free / GIBIBYTE:.1f} GiB are free)'
        )
    if missing:
        fail('This machine lacks:', *(f'- {item}' for item in missing))


def run(command: list, what: str, **kwargs) -> str:
    """Run a command, its output shown unless captured; stop with a sentence if it fails."""
    done = subprocess.run([str(part) for part in command], text=True, **kwargs)
    if done.returncode:
        fail(f'{what} failed (exit status {done.returncode}).', 'The lines above say why.')
    return done.stdout


class Venv:
    """The virtual environment that everything goes into."""

    def __init__(self, folder: Path, stack: Stack):
        self.stack = stack
        self.python = folder / 'bin' / 'python'
        self.env = {
            **os.environ,
            'PATH': f'{folder / "bin"}{os.pathsep}{os.environ["PATH"]}',
            'VIRTUAL_ENV': str(folder),
            'PIP_DISABLE_PIP_VERSION_CHECK': '1',
        }
        if not self.python.exists():
            run([sys.executable, '-m', 'venv', folder], 'Creating the virtual environment')

    def pip_install(self, *arguments: str) -> None:
        """Install with pip under the constraints of the stack."""
        command = [self.python, '-m', 'pip', 'install', '-c', self.stack.constraints, *arguments]
        run(command, f'Installing {" ".join(arguments)}', env=self.env, cwd=ROOT)

    def evaluate(self, expression: str) -> str:
        """Value of a Python expression over torch, as text."""
        command = [self.python, '-c', f'import torch; print({expression})']
        return run(command, 'Importing torch', env=self.env, stdout=subprocess.PIPE).strip()


def mmcv_wheel(venv: Venv) -> Path:
    """The compiled mmcv wheel for this Python and torch, built unless it is kept already."""
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
        say(f'      taken from {folder}')
        return kept[0]
    say(f'      compiling, about 13 minutes on 2 cores; the wheel is kept in {folder}')
    folder.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there when whole: an interrupted build leaves no wheel.
    with tempfile.TemporaryDirectory(dir=folder) as build:
        build_mmcv(venv, version, Path(build))
        (wheel,) = Path(build).glob('*.whl')
        return wheel.replace(folder / wheel.name)


def build_mmcv(venv: Venv, version: str, folder: Path) -> None:
    """Compile mmcv's ops into a wheel in ``folder``, showing progress and time left."""
    command = [venv.python, '-m', 'pip', 'wheel', '-v', '--no-build-isolation', '--no-deps',
               '--no-cache-dir', '-w', folder, f'{venv.stack.mmcv}=={version}']  # fmt: skip
    env = {**venv.env, 'MMCV_WITH_OPS': '1'}
    env.setdefault('MAX_JOBS', str(os.cpu_count() or 1))
    last_lines = collections.deque(maxlen=40)
    start = time.monotonic()
    shown = 0
    process = subprocess.Popen([str(part) for part in command], env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    for line in process.stdout:
        last_lines.append(line.rstrip())
        step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
        if step is None:
            continue
        done, total = int(step.group(1)), int(step.group(2))
        passed = time.monotonic() - start
        left = passed / done * (total - done)
        text = f'      mmcv ops: {done}/{total} files, about {left / 60:.0f} min left'
        if sys.stdout.isatty():
            print(f'\r{text}   ', end='\n' if done == total else '', flush=True)
        elif done * 10 // total > shown or done == 1:
            shown = done * 10 // total
            say(text)
    if process.wait():
        say('\n'.join(last_lines))
        fail('Compiling the ops of mmcv failed; the last lines of the compiler are above.')


def check_installation(venv: Venv) -> None:
    """Import everything that mmwau needs and name what does not import."""
    code = (
        'import importlib, sys, warnings\n'
        'warnings.simplefilter("ignore")\n'
        'failed = False\n'
        f'for name in {CHECKED_IMPORTS!r}:\n'
        '    try:\n'
        '        module = importlib.import_module(name)\n'
        '        note = getattr(module, "__version__", "ok")\n'
        '    except Exception as error:\n'
        '        failed, note = True, f"MISSING: {type(error).__name__}: {error}"\n'
        '    print(f"      {name:<18} {note}")\n'
        'sys.exit(failed)\n'
    )
    if subprocess.run([str(venv.python), '-c', code], env=venv.env, cwd=ROOT).returncode:
        fail(
            'What is marked MISSING above does not import.',
            f'If it is mmcv.ops, its wheel does not fit this torch: remove {wheel_cache()}',
            'and run `make clean install`, which compiles it again.',
            'If it is another package, run `make clean install`.',
        )


def main() -> None:
    """Run the five steps of the installation, each safe to repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--venv', type=Path, default=Path('.venv'),
                        help='virtual environment to install into (default: .venv)')  # fmt: skip
    parser.add_argument('--stack', choices=list(STACKS), default='tested',
                        help='OpenMMLab packages: tested (default), those of requirements/'
                             'tested.txt, or upstream')  # fmt: skip
    args = parser.parse_args()
    folder, stack = args.venv.absolute(), STACKS[args.stack]
    start = time.monotonic()
    say(f'[1/5] Machine: Python {platform.python_version()}, {os.cpu_count()} cores')
    check_machine(folder)
    say(f'[2/5] PyTorch, about 7 GB, into {folder}')
    venv = Venv(folder, stack)
    venv.pip_install('torch', 'torchvision', *BUILD_TOOLS)
    say('[3/5] mmcv with its compiled ops')
    venv.pip_install(str(mmcv_wheel(venv)))
    say('[4/5] MMEngine, MMDetection, MMPreTrain and mmwau itself')
    venv.pip_install(*stack.packages)
    say('[5/5] Check')
    check_installation(venv)
    say(f'Installed in {(time.monotonic() - start) / 60:.1f} min.')


if __name__ == '__main__':
    main()
