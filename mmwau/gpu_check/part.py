"""One part of the check, in a process of its own: ``python -m mmwau.gpu_check``.

A GPU does nothing more for a process in which something went wrong on it, and a program that hangs
can be ended. What a machine lacks for a part is the reason why it is not possible there.
"""

import importlib
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED, NOT_POSSIBLE = 'passed', 'failed', 'not possible'
RESULT = 'result.json'


class NotPossibleError(Exception):
    """Raised by a part that this machine can't do; its text says why."""


class Place(NamedTuple):
    """Where a part works.

    Attributes:
        device: The device. On a CPU all is made small.
        folder: An empty folder for what it writes.
    """

    device: torch.device
    folder: Path

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == 'cuda'


class Finding(NamedTuple):
    """What a part that has passed found.

    Attributes:
        told: It in a line.
        values: The numbers, for the report.
    """

    told: str
    values: dict[str, Any]


class Part(NamedTuple):
    """A part.

    Attributes:
        where: Module and function that takes a :class:`Place` and returns a :class:`Finding`.
        minutes: It is ended after so many.
        arguments: More arguments of the function.
    """

    where: str
    minutes: float
    arguments: tuple[str, ...] = ()


# In the order in which they are done: if the time runs out, the last ones are left.
PARTS = {
    'tests': Part('tests.run_tests', 5),
    'float16': Part('precision.train_in', 2, ('float16',)),
    'bfloat16': Part('precision.train_in', 2, ('bfloat16',)),
    'MMEngine': Part('runner.train_small', 3),
    'memory': Part('speed.measure_memory', 3),
    'profile': Part('profile.profile_steps', 4),
    'benchmark': Part('speed.time_classifier', 6),
    'demo': Part('runner.train_demo', 5),
    'compile': Part('runner.train_compiled', 4),
    'processes': Part('processes.train_in_two', 3),
    'detector': Part('speed.time_detector', 6),
}


def do_part(name: str, place: Place) -> dict[str, Any]:
    """Do a part, whatever becomes of it.

    Args:
        name: One of :data:`PARTS`.
        place: Where.

    Returns:
        Its ``'status'``, what is ``'told'`` of it, its ``'values'`` and the ``'seconds'``.
    """
    part, start = PARTS[name], time.monotonic()
    module, function = part.where.split('.')
    values: dict[str, Any] = {}
    try:
        do: Callable[..., Finding] = getattr(
            importlib.import_module(f'mmwau.gpu_check.{module}'), function
        )
        told, values = do(place, *part.arguments)
        status = PASSED
    except NotPossibleError as reason:
        status, told = NOT_POSSIBLE, str(reason)
    except ModuleNotFoundError as error:
        is_lacking = (error.name or 'mmwau').partition('.')[0] != 'mmwau'
        status = NOT_POSSIBLE if is_lacking else FAILED
        told = f'{error.name} is not installed' if is_lacking else str(error)
        traceback.print_exc()
    except Exception as error:
        status, told = FAILED, f'{type(error).__name__}: {first_line(error)}'
        traceback.print_exc()
    seconds = round(time.monotonic() - start, 1)
    return dict(status=status, told=told, values=values, seconds=seconds)


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The first one of what came out of another process is a rule of dashes.
    lines = [line for line in lines if line.strip('- ')] or ['']
    return lines[-1] if 'Traceback' in str(error) else lines[0]


def read_result(folder: Path) -> dict[str, Any] | None:
    """What the part that worked in a folder left there, None if it came to no end."""
    path = folder / RESULT
    return json.loads(path.read_text()) if path.is_file() else None
