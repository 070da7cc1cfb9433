"""``torch.load`` and ``pickle.load`` for files of any origin: nothing that a file brings is run.

Tensors, numbers, texts and what MMEngine writes are made. Whatever else a file holds, such as the
arguments of a training script, becomes an empty stand-in: the weights beside it can be read.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar
from warnings import catch_warnings, simplefilter

import torch
from torch import serialization

# Before 2.4 torch reads only tensors and plain values: not what MMEngine writes.
CAN_ALLOW = hasattr(serialization, 'add_safe_globals')
Made = TypeVar('Made', bound=Callable[..., object])
# These are what a file would run commands with: it is refused, not read without them.
REFUSED = ('builtins', 'os', 'posix', 'nt', 'sys', 'subprocess')
# Parts of torch whose classes are no tensors.
NO_TENSORS = ('torch.nn.modules.', 'torch.optim.')
# Harmless ones of builtins.
PLAIN_TYPES = (
    *(object, list, tuple, dict, set, frozenset, slice, range),
    *(bool, int, float, complex, str, bytes),
)


def load(
    path: str | Path, map_location: serialization.MAP_LOCATION = 'cpu', mmap: bool = False
) -> tuple[object, list[str]]:
    """Read a file of ``torch.save``.

    Args:
        path: The file.
        map_location: See ``torch.load``.
        mmap: Whether to leave tensors on the disk until they are used; for files of torch's
            present, zipped form.

    Returns:
        The content, and the names of classes and functions in it that were left out. Each of them
        is an empty or partly filled ``OrderedDict`` in the content, see :func:`stands_for`.

    Raises:
        pickle.UnpicklingError: If the file asks for something that can't be left out; its words
            have ``GLOBAL`` before the name of that.
        Exception: What ``torch.load`` raises for files that it can't read.
    """
    left_out: list[str] = []
    made = _made(left_out) if CAN_ALLOW else {}
    while True:
        try:
            with _allowed(made), catch_warnings():
                simplefilter('ignore')  # on the pickle protocol of files that are refused anyway
                content = torch.load(path, map_location, weights_only=True, mmap=mmap or None)
                return content, left_out
        except pickle.UnpicklingError as error:
            found = re.search(r'GLOBAL (\S+) was not an allowed', str(error))
            if not found or not CAN_ALLOW:
                raise
            # Older versions name those of builtins without their module.
            name = found[1] if '.' in found[1] else f'builtins.{found[1]}'
            if name in made or not _can_be_left_out(name):
                raise
            made[name] = _stand_in(name)
            left_out.append(name)


def load_pickle(path: str | Path) -> object:
    """Read a plain pickle of NumPy arrays and plain values, as Detectron2's models are.

    Raises:
        pickle.UnpicklingError: If it holds anything else; its words have ``GLOBAL`` before the name
            of that.
        Exception: What ``pickle`` raises for files that it can't read.
    """
    with open(path, 'rb') as file:
        return _PlainUnpickler(file, encoding='latin1').load()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Only what arrays are made of."""
        known = {**_numpy(), 'collections.OrderedDict': OrderedDict}
        if f'{module}.{name}' not in known:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name} is no array')
        return known[f'{module}.{name}']


def stands_for(value: object) -> str | None:
    """Name of the class that a value stands for; None where it is a value of its own."""
    return getattr(value, 'stands_for', None) if isinstance(value, OrderedDict) else None


def _can_be_left_out(name: str) -> bool:
    package = name.partition('.')[0]
    # Without other parts of torch a weight might be missing.
    return package not in REFUSED and (package != 'torch' or name.startswith(NO_TENSORS))


def _empty(name: str) -> OrderedDict:
    # Torch fills dicts and nothing else, whatever they stand for.
    made: OrderedDict = OrderedDict()
    vars(made)['stands_for'] = name
    return made


def _stand_in(name: str) -> type:
    return _named(name, type('_', (), {'__new__': lambda cls, *args, **kwargs: _empty(name)}))


def _named(name: str, thing: Made) -> Made:
    """Give a function or class the name by which torch finds it."""
    thing.__module__, _, thing.__name__ = name.rpartition('.')
    thing.__qualname__ = thing.__name__
    return thing


@contextmanager
def _allowed(made: Mapping[str, Callable]) -> Iterator[None]:
    """Let torch use these, beside what the user has allowed it."""
    if not made:
        yield
        return
    added = set(made.values()) - set(serialization.get_safe_globals())
    serialization.add_safe_globals(list(added))
    try:
        yield
    finally:
        now = serialization.get_safe_globals()
        serialization.clear_safe_globals()
        serialization.add_safe_globals([one for one in now if one not in added])


def _made(left_out: list[str]) -> dict[str, Callable]:
    """What is made beside tensors, by name: plain values, arrays, and what MMEngine writes."""
    made: dict[str, Callable] = {f'builtins.{kind.__name__}': kind for kind in PLAIN_TYPES}
    made |= _numpy()
    made['collections.defaultdict'] = lambda *args: dict(*args[1:])
    for module in ('pathlib', 'pathlib._local'):
        for name in ('Path', 'PosixPath', 'PurePosixPath'):
            made[f'{module}.{name}'] = lambda *parts: PurePosixPath(*parts)
        for name in ('WindowsPath', 'PureWindowsPath'):
            made[f'{module}.{name}'] = lambda *parts: PureWindowsPath(*parts)
    owners = _classes_of_mmengine()
    made |= owners

    def attribute(owner: object, name: str) -> object:
        if owner in owners.values() and not name.startswith('__'):
            return getattr(owner, name)
        left_out.append(f'{owner!r}.{name}')
        return _empty(left_out[-1])

    made['builtins.getattr'] = attribute
    for name, thing in made.items():
        if not isinstance(thing, type):
            _named(name, thing)
    return made


def _classes_of_mmengine() -> dict[str, type]:
    """Classes of which MMEngine keeps instances or methods in a checkpoint."""
    try:
        from mmengine.config import ConfigDict
        from mmengine.logging import HistoryBuffer
        from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
    except ImportError:
        return {}
    classes = (ConfigDict, HistoryBuffer, OneCycleParamScheduler)
    return {f'{kind.__module__}.{kind.__qualname__}': kind for kind in classes}


def _numpy() -> dict[str, Callable]:
    """What NumPy's arrays and numbers are made with, bytes for one: in pickles they are text."""
    try:
        import numpy as np
    except ImportError:
        return {}
    kinds = {type(np.dtype(code)) for code in np.typecodes['All']}
    found: dict[str, Callable] = {'_codecs.encode': lambda text, encoding: text.encode(encoding)}
    found |= {f'{kind.__module__}.{kind.__name__}': kind for kind in kinds | {np.ndarray, np.dtype}}
    for name, value in (('_reconstruct', np.zeros(0)), ('scalar', np.float64(0))):
        function = value.__reduce__()[0]
        for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # before NumPy 2, since
            found[f'{module}.{name}'] = lambda *args, function=function: function(*args)
    return found
