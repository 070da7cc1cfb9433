"""Measurements as JSON that every reader takes."""

import json
import math
from collections.abc import Mapping


def to_json(content: Mapping, indent: int | None = 1) -> str:
    """Write measurements as JSON; nan and infinity, for which JSON has no number, become null.

    Args:
        content: Mappings, lists, numbers, texts, None.
        indent: Spaces of each level; None for a single line.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: object) -> object:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
