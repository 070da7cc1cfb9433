"""Weights from files of any origin, read without running code that such a file may hold."""

import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.serialization import MAP_LOCATION

from . import safe_load

# Where training scripts keep the weights in a checkpoint, in the order of preference.
PLACES = (
    *('state_dict', 'model_state_dict', 'model', 'model_state', 'net', 'module'),
    *('state_dict_ema', 'blobs'),
)
# What torch.compile puts before the names of a module and all below it.
COMPILED = re.compile(r'(?<![^.])_orig_mod\.')
# First byte of a pickle, and a number near the beginning of those of torch's earlier form.
PICKLE, LEGACY = b'\x80', b'l\xfc\x9cF\xf9 j\xa8P\x19'
LFS = b'version https://git-lfs'
# How users make a file that can be read from one that can't.
SAVE = "save only the weights, torch.save(model.state_dict(), 'weights.pth')"


def read_weights(path: str | Path, unsafe: bool = False) -> dict[str, Tensor]:
    """Read the weights from a file: see :func:`read_checkpoint`.

    Args:
        path: The file.
        unsafe: Unpickle whatever is in the file, which can run code that the file brings. Only for
            files from a trusted source. Defaults to False.

    Returns:
        The tensors by name, on the CPU, without the prefixes of distributed training (``module.``)
        and of ``torch.compile`` (``_orig_mod.``).

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: See :func:`read_checkpoint`.
        ImportError: If a safetensors file is to be read without the package.
    """
    content, _ = read_checkpoint(path, unsafe)
    return {
        name: value for name, value in content['state_dict'].items() if isinstance(value, Tensor)
    }


def read_checkpoint(
    path: str | Path,
    unsafe: bool = False,
    map_location: MAP_LOCATION = 'cpu',
    mmap: bool = False,
    bare: bool = False,
) -> tuple[dict, list[str]]:
    """Read a checkpoint of any training script, a state dict, a safetensors file, or a ``.pkl``.

    The content decides what form a file has. Plain pickles, as Detectron2 has them, may hold
    NumPy arrays by name.

    Args:
        path: The file.
        unsafe: See :func:`read_weights`.
        map_location: Where tensors go, as for ``torch.load``; those of safetensors and plain
            pickles are on the CPU.
        mmap: Whether to leave tensors on the disk until they are used, where the file's form allows
            it.
        bare: Whether a file that is a state dict itself comes back as one.

    Returns:
        The content of the file, with its weights as ``state_dict`` whatever it calls them, their
        names as in :func:`read_weights`. And the names of what stands beside the weights and is
        left out, since it is made by code.

    Raises:
        FileNotFoundError: If the file does not exist.
        IsADirectoryError: If it is a folder.
        ValueError: If it is truncated, not of these forms, holds no weights, or needs code to run.
            The message says which, and what to do.
        ImportError: If a safetensors file is to be read without the package.
    """
    path = Path(path)
    if not path.is_file():
        refuse_folder(path)
        raise FileNotFoundError(f'The checkpoint {path} does not exist (from {Path.cwd()})')
    with open(path, 'rb') as file:
        start = file.read(100)
    content: object
    left_out: list[str] = []
    if path.suffix == '.safetensors' or _begins_safetensors(start):
        content = _read_safetensors(path)
    elif start.startswith(PICKLE) and LEGACY not in start:
        content = _read_pickle(path)
    else:
        content, left_out = _read_torch(path, start, unsafe, map_location, mmap)
    weights = _find_weights(content)
    if not weights:
        raise ValueError(_no_weights(path, content))
    unread = [
        f'{name} ({safe_load.stands_for(value)})'
        for name, value in weights.items()
        if safe_load.stands_for(value) and not str(name).endswith('_extra_state')
    ]
    if unread:
        raise ValueError(
            f'{path} has weights of a class that torch does not read safely: '
            f'{", ".join(unread[:3])}. Convert them to plain tensors, then {SAVE}'
        )
    beside = content.items() if isinstance(content, Mapping) else ()
    kept = {name: value for name, value in beside if name not in weights}
    named = _without_wrappers(weights)
    if bare and weights is content:
        return named, left_out
    return {**kept, 'state_dict': named}, left_out


def refuse_folder(path: Path) -> None:
    """Raise if a folder is given where a checkpoint should be.

    Raises:
        IsADirectoryError: If it is one; the message names the checkpoints in it.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f'{path} is a folder; name a checkpoint in it. Checkpoints in it: '
            f'{checkpoints_in(path)}'
        )


def checkpoints_in(folder: str | Path) -> str:
    """Names of the checkpoints in a folder, for messages."""
    return ', '.join(sorted(path.name for path in Path(folder).glob('*.pth'))) or 'none'


def _read_torch(
    path: Path, start: bytes, unsafe: bool, map_location: MAP_LOCATION, mmap: bool
) -> tuple[object, list[str]]:
    zipped = zipfile.is_zipfile(path)
    if zipped and not unsafe and _is_torchscript(path):
        raise ValueError(
            f'{path} is a TorchScript archive: a program with its weights. If you trust whoever '
            'made it as you would trust a program, take the weights out: '
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'weights.pth')"
        )
    try:
        if unsafe:
            return torch.load(path, map_location=map_location, weights_only=False), []
        return safe_load.load(path, map_location, mmap=mmap and zipped)
    except Exception as error:
        raise ValueError(_why_not(path, start, error)) from None


def _read_pickle(path: Path) -> object:
    try:
        content = safe_load.load_pickle(path)
    except Exception as error:
        wanted = re.search(r'GLOBAL (\S+)', str(error))
        if wanted:
            raise ValueError(
                f'{path} is a plain pickle, not a file of torch.save, and is refused: it asks to '
                f'run {wanted[1]}. Of plain pickles those of NumPy arrays by name are read, as '
                'Detectron2 has them. If you trust whoever made it as you would trust a program, '
                f'unpickle it and {SAVE}'
            ) from None
        raise ValueError(
            f'{path} can not be read; it is truncated or is no checkpoint '
            f'({type(error).__name__}: {error})'
        ) from None
    return _with_tensors(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f'To read {path}, install safetensors: pip install safetensors'
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f'{path} can not be read; it is truncated or is no safetensors file ({error})'
        ) from None


def _begins_safetensors(start: bytes) -> bool:
    """Whether a length in eight bytes comes first, then JSON."""
    return start[8:10] == b'{"' and int.from_bytes(start[:8], 'little') < 2**32


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith('/constants.pkl') for name in archive.namelist())


def _why_not(path: Path, start: bytes, error: Exception) -> str:
    wanted = re.search(r'GLOBAL (\S+)', str(error))
    if wanted:
        return (
            f'{path} is refused: it asks to run {wanted[1]}, and a file of weights needs no '
            'code. If you trust whoever made it as you would trust a program, read it with '
            f'--unsafe-load where a tool has that, or {SAVE}'
        )
    if start.startswith(LFS):
        return (
            f'{path} is not the checkpoint itself but a pointer of Git LFS to it: fetch it with '
            'git lfs pull'
        )
    if start.lstrip()[:1] in (b'<', b'{'):
        return f'{path} is text, no checkpoint: was a web page or an index downloaded instead?'
    # torch's own words would advise to read it with less care.
    reason = '' if 'weights_only' in str(error) else f' ({type(error).__name__}: {error})'
    return f'{path} can not be read; it is truncated or is no checkpoint of torch{reason}'


def _no_weights(path: Path, content: object) -> str:
    whole = safe_load.stands_for(content)
    if whole:
        return (
            f'{path} holds an object of the class {whole}, which is code, not weights by name. If '
            'you trust whoever made it as you would trust a program, read it with --unsafe-load '
            f'where a tool has that, or {SAVE}'
        )
    has = type(content).__name__
    if isinstance(content, Mapping):
        names = (
            f'{name} ({stand_in})' if (stand_in := safe_load.stands_for(value)) else str(name)
            for name, value in content.items()
        )
        has = ', '.join(islice(names, 8)) or 'nothing'
    return (
        f'{path} holds no weights by name: neither at its top nor at {", ".join(PLACES)}. It has: '
        f'{has}. Instead, {SAVE}'
    )


def _find_weights(content: object, named: bool = False) -> Mapping[str, object]:
    """The state dict in what a file holds; empty if there is none.

    Args:
        content: What the file holds, or has under one of the names of a state dict.
        named: Whether it is the latter: then it is a state dict as a whole.
    """
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        return {}
    places = (_find_weights(content.get(place), named=True) for place in PLACES)
    found = next(filter(None, places), None)
    if found is not None:
        return found
    tensors = {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    return content if tensors and (named or len(tensors) == len(content)) else tensors


def _without_wrappers(weights: Mapping[str, object]) -> OrderedDict:
    """The weights by the names that they have without wrappers, where these differ."""
    names = [COMPILED.sub('', str(name)).removeprefix('module.') for name in weights]
    if len(set(names)) < len(names):
        names = list(weights)
    renamed = OrderedDict(zip(names, weights.values(), strict=True))
    if hasattr(weights, '_metadata'):  # versions of the modules, for load_state_dict
        vars(renamed)['_metadata'] = weights._metadata
    return renamed


def _with_tensors(content: object) -> object:
    """The same with tensors in the place of arrays, in dicts of any depth."""
    if isinstance(content, Mapping):
        return {name: _with_tensors(value) for name, value in content.items()}
    if hasattr(content, 'dtype') and hasattr(content, 'shape') and content.dtype.kind in 'biuf':
        return torch.as_tensor(content)
    return content
