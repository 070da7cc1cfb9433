"""Random numbers that are a function of a text: no generator, no state."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def random_numbers(keys: Sequence[str], counts: Sequence[int]) -> Tensor:
    """Random numbers that depend on the keys alone, evenly spread over [0, 1).

    The SplitMix64 generator (Steele, Lea, Flood, OOPSLA 2014, figure 16), started at a hash of
    the key: each number is computed from its place alone, so all come from a few tensor
    operations, with integers that are the same on every machine.

    Args:
        keys: Texts.
        counts: How many numbers each of them gives.

    Returns:
        Float64 tensor of shape (sum(counts),) on the CPU: the numbers of one key after another.
    """
    hashes = (hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    starts = torch.tensor([int.from_bytes(digest, 'little', signed=True) for digest in hashes])
    num = torch.tensor(counts)
    z = torch.arange(1, sum(counts) + 1)
    step = _signed(0x9E3779B97F4A7C15)
    # The place in its own row times the step, plus the start of the row.
    z = z.mul_(step).add_((starts - (num.cumsum(0) - num) * step).repeat_interleave(num))
    z = _shift_right(z, 30).bitwise_xor_(z).mul_(_signed(0xBF58476D1CE4E5B9))
    z = _shift_right(z, 27).bitwise_xor_(z).mul_(_signed(0x94D049BB133111EB))
    z = _shift_right(z, 31).bitwise_xor_(z)
    return _shift_right(z, 11).double().mul_(2.0**-53)


def _signed(constant: int) -> int:
    """The int64 with the bits of an unsigned 64-bit constant: torch has no uint64 arithmetic."""
    return constant - 2**64


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift int64 right with zeros coming in from the left."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)
