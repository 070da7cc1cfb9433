"""Names of the types that configs have."""

from typing import overload


@overload
def type_name(kind: str | type) -> str: ...


@overload
def type_name(kind: None) -> None: ...


def type_name(kind: str | type | None) -> str | None:
    """Name of a type as a config of either style has it.

    Args:
        kind: A name, with the scope of a registry before it or not; a class; the dotted name of
            one, which is how MMEngine writes a class into a file; or None.

    Returns:
        The bare name, without what is before the last dot; None for None.
    """
    name = kind.__name__ if isinstance(kind, type) else kind
    return name.rpartition('.')[2] if isinstance(name, str) else name
