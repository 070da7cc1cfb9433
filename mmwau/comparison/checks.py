"""Checks of the arguments that the methods of this room have in common."""


def check_fraction(argument: str, value: float, meaning: str) -> None:
    """Raise unless a value is a number in (0, 1)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f'{argument} must be a number in (0, 1), {meaning}, got {value!r}')
    if not 0 < value < 1:
        raise ValueError(f'{argument} must be in (0, 1), {meaning}, got {value}')


def check_count(argument: str, value: int, least: int, meaning: str) -> None:
    """Raise unless a value is an integer that is not below ``least``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f'{argument} must be an integer ({meaning}), got {value!r}')
    if value < least:
        raise ValueError(f'{argument} must be at least {least} ({meaning}), got {value}')


def check_bool(argument: str, value: bool) -> None:
    """Raise unless a value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f'{argument} must be True or False, got {value!r}')
