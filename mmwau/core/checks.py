"""Checks of arguments: each raises an error that names the argument and what it may be."""

from collections.abc import Sequence
from numbers import Integral, Real

import torch


def as_update_ratio(update_ratio: float, argument: str = 'update_ratio') -> float:
    """Return an update ratio as Python's own number; raise unless it is in (0, 1]."""
    if not isinstance(update_ratio, Real) or isinstance(update_ratio, bool):
        raise TypeError(
            f'{argument} must be a number in (0, 1], got {update_ratio!r} '
            f'of type {type(update_ratio).__name__}'
        )
    if not 0 < update_ratio <= 1:
        raise ValueError(
            f'{argument} must be in (0, 1], got {update_ratio}; 1 is plain training, '
            '0.5 moves half of the filters in each update'
        )
    return update_ratio if isinstance(update_ratio, int) else float(update_ratio)


def as_integer(argument: str, value: int) -> int:
    """Return an integer, NumPy's included, as Python's own; raise a TypeError for all else."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise TypeError(f'{argument} must be an integer, got {value!r} of type {type(value).__name__}')


def check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        known = ', '.join(repr(choice) for choice in choices)
        raise ValueError(f'{argument} must be one of {known}, got {value!r}')


def check_fraction(argument: str, value: float, meaning: str) -> None:
    """Raise unless a value is a number in (0, 1)."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f'{argument} must be a number in (0, 1), {meaning}, got {value!r}')
    if not 0 < value < 1:
        raise ValueError(f'{argument} must be in (0, 1), {meaning}, got {value}')


def check_count(argument: str, value: int, least: int, meaning: str) -> None:
    """Raise unless a value is an integer that is not below ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f'{argument} must be an integer ({meaning}), got {value!r}')
    if value < least:
        raise ValueError(f'{argument} must be at least {least} ({meaning}), got {value}')


def check_bool(argument: str, value: bool) -> None:
    """Raise unless a value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f'{argument} must be True or False, got {value!r}')


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured, whose replays would repeat one selection."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
