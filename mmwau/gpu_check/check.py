"""All parts one after the other, and the report."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mmwau.files.json_text import to_json
from mmwau.files.whole import write_whole

from .part import FAILED, NOT_POSSIBLE, PARTS, PASSED, ROOT, read_result

LOG = 'log.txt'
PACKAGES = (
    *('mmengine', 'onedl-mmengine', 'mmcv', 'onedl-mmcv', 'mmdet', 'onedl-mmdetection'),
    'torchvision',
)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the check runs on."""
    found: dict[str, Any] = dict(
        device=str(device), python=platform.python_version(), torch=torch.__version__
    )
    if device.type == 'cuda':
        major, minor = torch.cuda.get_device_capability()
        found['GPUs'] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found.update(capability=f'{major}.{minor}', cuda=torch.version.cuda)
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def run_parts(
    names: Sequence[str], device: torch.device, out: Path, minutes: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Do the parts, each in a process of its own with a folder of its own.

    Args:
        names: Names of :data:`.part.PARTS`.
        device: The device.
        out: The folder of their folders.
        minutes: No part goes on for longer than until then.

    Yields:
        The name of each part that ended, and what :func:`.part.do_part` gives.
    """
    end = time.monotonic() + 60 * minutes
    for name in names:
        left = end - time.monotonic()
        if left <= 0:
            told = f'the {minutes:g} minutes are over: --parts "{name}" does it alone'
            yield name, dict(status=NOT_POSSIBLE, told=told, values={}, seconds=0.0)
        else:
            own = 60 * PARTS[name].minutes
            late = FAILED, f'it was not done after {own:.0f} seconds'
            if left < own:
                late = NOT_POSSIBLE, f'the {minutes:g} minutes were over before it was done'
            yield name, _run_part(name, device, out / 'parts' / name, min(own, left), late)


def _run_part(
    name: str, device: torch.device, folder: Path, seconds: float, late: tuple[str, str]
) -> dict[str, Any]:
    """Do one part in a process; what it is if that crashes, or is not done in time: ``late``."""
    # Nothing of an earlier check is taken for that of this one.
    if (folder / LOG).is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, '-m', 'mmwau.gpu_check', name, str(device), str(folder)]
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}
    start = time.monotonic()
    with open(folder / LOG, 'wb') as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            status = process.wait(seconds)
            ended = FAILED, f'its process ended with status {status}'
        except subprocess.TimeoutExpired:
            ended = late
        finally:
            # With what it has started; of a session of its own, nothing else is in the group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    taken = round(time.monotonic() - start, 1)
    result = read_result(folder) or dict(status=ended[0], told=ended[1], values={})
    if result['status'] == FAILED:
        result['told'] += f' (all of it: {folder / LOG})'
    return {**result, 'seconds': taken}


def line_of(name: str, result: Mapping[str, Any]) -> str:
    """What is shown of a part."""
    because = 'because ' if result['status'] == NOT_POSSIBLE else ''
    seconds = f'{result["seconds"]:.0f} s'
    return f'{name:<10} {result["status"]:<13} {seconds:>6}  {because}{result["told"]}'


def check(names: Sequence[str], device: torch.device, out: Path, minutes: float) -> bool:
    """Do the parts, print them, and write ``gpu_check.json`` and ``gpu_check.txt``.

    Args:
        names: Names of the parts.
        device: The device.
        out: Folder of what is written.
        minutes: The most that it takes.

    Returns:
        Whether no part failed.
    """
    machine = describe_machine(device)
    results: dict[str, dict] = {}
    lines = [', '.join(f'{name}: {value}' for name, value in machine.items())]
    print(lines[0], flush=True)
    for name, result in run_parts(names, device, out, minutes):
        results[name] = result
        lines.append(line_of(name, result))
        print(lines[-1], flush=True)
        # After each part, so that nothing that goes wrong later loses what was found.
        content = to_json(dict(machine=machine, parts=results))
        write_whole(content.encode(), out / 'gpu_check.json')
        write_whole('\n'.join([*lines, '']).encode(), out / 'gpu_check.txt')
    counts = dict.fromkeys((PASSED, FAILED, NOT_POSSIBLE), 0)
    for result in results.values():
        counts[result['status']] += 1
    told = ', '.join(f'{count} {status}' for status, count in counts.items())
    print(f'{told}. Report: {out / "gpu_check.json"}, {out / "gpu_check.txt"}')
    return not counts[FAILED]
