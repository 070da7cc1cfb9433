"""Measurements as JSON that every reader takes."""

import json
from collections.abc import Mapping


def to_json(content: Mapping, indent: int | None = 1) -> str:
    """Write measurements as JSON; nan and infinity, for which JSON has no number, become null.

    Args:
        content: Dicts, lists, numbers, texts, None.
        indent: Spaces of each level; None for a single line.
    """
    # Python writes and reads names for these numbers.
    content = json.loads(json.dumps(content), parse_constant=lambda name: None)
    return json.dumps(content, indent=indent)
