"""Records of what was done, in a JSON file with a line for each."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from .whole import write_whole

Kind = TypeVar('Kind')


def write_records(records: Sequence[Any], path: Path) -> None:
    """Write records to a JSON file, a line for each.

    Args:
        records: Dataclasses whose fields are numbers, texts, lists and mappings of them.
        path: The file; what it has is replaced.

    Raises:
        OSError: If it can't be written.
    """
    write_whole(f'{to_lines(records)}\n'.encode(), path)


def read_records(kind: type[Kind], path: Path) -> list[Kind]:
    """Records from the file that :func:`write_records` wrote; none if it does not exist.

    Args:
        kind: Their dataclass.
        path: The file.

    Raises:
        ValueError: If it can't be read.
    """
    if not path.is_file():
        return []
    try:
        return [kind(**record) for record in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path} is not what this tool writes ({error}); remove it') from error


def to_lines(records: Sequence[Any]) -> str:
    """Records as a JSON list, a line for each."""
    return '[\n' + ',\n'.join(json.dumps(asdict(record)) for record in records) + '\n]'
