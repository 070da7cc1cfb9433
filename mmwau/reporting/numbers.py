"""Numbers as text, for people to read."""

import math

from .statistics import Summary, half_width

NO_VALUE, MINUS, NO_BREAK = '\u2013', '\u2212', '\u00a0'


def number_text(value: float | None, decimals: int, sign: str = '') -> str:
    """A number with so many decimals, and a dash for None and for what is no finite one.

    The sign ``'+'`` is shown before positive numbers too.
    """
    if value is None or not math.isfinite(value):
        return NO_VALUE
    return f'{value:{sign}.{decimals}f}'.replace('-', MINUS)


def mean_text(found: Summary | None, decimals: int, sign: str = '') -> str:
    """A mean and its standard deviation, and a dash for none; see :func:`number_text`."""
    if found is None:
        return NO_VALUE
    spread = '' if found.std is None else f'{NO_BREAK}±{NO_BREAK}{number_text(found.std, decimals)}'
    return f'{number_text(found.mean, decimals, sign)}{spread}'


def gap_text(found: Summary | None, decimals: int) -> str:
    """A gap with its 95 % interval, if it has one, and a dash for none."""
    if found is None:
        return NO_VALUE
    half = half_width(found)
    text = number_text(found.mean, decimals, '+')
    if half is None:
        return text
    low, high = (number_text(found.mean + sign * half, decimals, '+') for sign in (-1, 1))
    return f'{text} ({low}, {high})'.replace(' ', NO_BREAK)
