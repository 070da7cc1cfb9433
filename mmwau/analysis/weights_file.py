"""Weights from files of any origin, read without running code that such a file may hold."""

import re
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

# Where training scripts keep the weights in a checkpoint, in the order of preference.
PLACES = (
    'state_dict',
    'model_state_dict',
    'model',
    'model_state',
    'net',
    'module',
    'state_dict_ema',
)
# What common training scripts keep beside the weights. None of it is needed or made.
BESIDE = (
    'mmengine.logging.history_buffer.HistoryBuffer',
    'mmengine.config.config.ConfigDict',
    'builtins.getattr',
    'numpy.dtype',
    'numpy.ndarray',
    'numpy.core.multiarray._reconstruct',
    'numpy.core.multiarray.scalar',
    'numpy._core.multiarray._reconstruct',
    'numpy._core.multiarray.scalar',
    'argparse.Namespace',
    'pathlib.PosixPath',
)


class _Ignored:
    """Stands for something beside the weights: takes whatever it is given, and does nothing."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _stand_in(name: str) -> type:
    module, _, attribute = name.rpartition('.')
    return type(attribute, (_Ignored,), {'__module__': module, '__qualname__': attribute})


STAND_INS = [_stand_in(name) for name in BESIDE]


def read_weights(path: str | Path, unsafe: bool = False) -> dict[str, Tensor]:
    """Read the weights from a checkpoint of MMEngine, a plain state dict, or a safetensors file.

    Args:
        path: The file; with the suffix ``.safetensors`` it is taken for one, otherwise for a file
            of ``torch.save``.
        unsafe: Unpickle whatever is in the file, which can run code that the file brings. For
            files from a trusted source alone. Defaults to False.

    Returns:
        The tensors by name, on the CPU, without the prefix ``module.`` of distributed training.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is truncated, not of these forms, holds no weights, or needs code to run.
        ImportError: If a safetensors file is to be read without the package.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'The checkpoint {path} does not exist (from {Path.cwd()})')
    content = _read_safetensors(path) if path.suffix == '.safetensors' else _read(path, unsafe)
    weights = _find_weights(content)
    if not weights:
        keys = map(str, content) if isinstance(content, dict) else [type(content).__name__]
        raise ValueError(
            f'{path} holds no weights by name: neither at its top nor at {", ".join(PLACES)}. It '
            f'has: {", ".join(islice(keys, 8)) or "nothing"}. Save model.state_dict() instead'
        )
    return weights


def _read(path: Path, unsafe: bool) -> object:
    # Older versions of torch know no stand-ins; with them such checkpoints need `unsafe`.
    stand_ins = getattr(torch.serialization, 'safe_globals', lambda classes: nullcontext())
    try:
        with stand_ins(STAND_INS), catch_warnings():
            simplefilter('ignore')  # on the pickle protocol of files that are refused anyhow
            return torch.load(path, map_location='cpu', weights_only=not unsafe)
    except Exception as error:
        wanted = re.search(r'GLOBAL ([\w.]+)', str(error))
        if wanted:
            raise ValueError(
                f'{path} is refused: it asks to run {wanted[1]}, and a file of weights needs no '
                'code. If you trust whoever made it as you would trust a program, read it with '
                '--unsafe-load; or save model.state_dict() alone'
            ) from None
        # torch's own words would advise to read it with less care.
        reason = '' if 'weights_only' in str(error) else f' ({type(error).__name__}: {error})'
        raise ValueError(
            f'{path} can not be read; it is truncated or is no checkpoint of torch{reason}'
        ) from None


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


def _find_weights(content: object) -> dict[str, Tensor]:
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict):
        return {}
    tensors = {
        name.removeprefix('module.'): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if tensors:
        return tensors
    places = (_find_weights(content.get(place)) for place in PLACES)
    return next(filter(None, places), {})
