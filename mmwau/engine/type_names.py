"""Names of the types that configs have."""


def type_name(kind: str | type | None) -> str:
    """Name of a type as a config of either style has it.

    Args:
        kind: A name, with the scope of a registry before it or not; a class; the dotted name of
            one, which is how MMEngine writes a class into a file; or None.

    Returns:
        The bare name, without what is before the last dot; '' for None.
    """
    name = kind.__name__ if isinstance(kind, type) else str(kind or '')
    return name.rpartition('.')[2]
