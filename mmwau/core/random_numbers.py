"""Random numbers that are a function of strings: no generator, no state."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .ragged import rows_and_places


def random_numbers(times: Sequence[str], names: Sequence[str], counts: Sequence[int]) -> Tensor:
    """Random numbers that depend only on the strings, evenly spread over [0, 1).

    The SplitMix64 generator (Steele, Lea, Flood, OOPSLA 2014, figure 16), started at the sum of
    the hashes of a time and a name: each number is computed only from its place, so all come
    from a few tensor operations, with integers that are the same on every machine.

    Args:
        times: For each row of numbers a string that is new each time.
        names: For each row a string that comes again and again; its hash is cached.
        counts: For each row how many numbers it has.

    Returns:
        Float64 tensor of shape (sum(counts),) on the CPU: one row after another.
    """
    hash_of_time = {time: _hash(time) for time in set(times)}
    starts = torch.tensor([hash_of_time[time] for time in times])
    starts += torch.tensor([_kept_hash(name) for name in names])
    rows, places = rows_and_places(tuple(counts))
    z = (places + 1).mul_(_signed(0x9E3779B97F4A7C15)).add_(starts[rows])
    z = _shift_right(z, 30).bitwise_xor_(z).mul_(_signed(0xBF58476D1CE4E5B9))
    z = _shift_right(z, 27).bitwise_xor_(z).mul_(_signed(0x94D049BB133111EB))
    z = _shift_right(z, 31).bitwise_xor_(z)
    return _shift_right(z, 11).double().mul_(2.0**-53)


def _hash(text: str) -> int:
    """Hash of a string, in the range of int64."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little', signed=True)


_kept_hash = lru_cache(maxsize=2**16)(_hash)


def _signed(constant: int) -> int:
    """The int64 with the bits of an unsigned 64-bit constant: torch has no uint64 arithmetic."""
    return constant - 2**64


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift int64 right with zeros coming in from the left."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)
