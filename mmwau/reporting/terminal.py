"""What the tools print in a terminal: texts as they are, and how far they are."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

# Columns of what goes to no terminal: the widest table fits.
WIDTH = 200
Item = TypeVar('Item')


def text_console(**options: Any) -> Console:
    """A console for texts in which brackets and colons are no markup, as in paths: ``x [v1]/``."""
    options = dict(markup=False, emoji=False, **options)
    console = Console(**options)
    return console if console.is_terminal else Console(**{'width': WIDTH, **options})


def print_warnings(console: Console, warnings: Iterable[str]) -> None:
    """Print sentences on what went wrong, or is less than fair."""
    for warning in warnings:
        console.print(f'Warning: {warning}', style='yellow', soft_wrap=True)


def print_written(console: Console, folder: Path, names: Iterable[str]) -> None:
    """Say which files were written to a folder."""
    for name in names:
        console.print(f'Written: {folder / name}', soft_wrap=True)


def progress_bar(
    console: Console | None = None, left: ProgressColumn | None = None, **options: Any
) -> Progress:
    """A bar for each task: its name as it is, the bar, how many are done, and the time left.

    The time is an estimate from the pace so far unless there is another column for it.
    """
    name = TextColumn('{task.description}', markup=False)
    left = left or TimeRemainingColumn()
    columns = name, BarColumn(bar_width=20), MofNCompleteColumn(), left
    return Progress(*columns, console=console or text_console(), **options)


def track(items: Sequence[Item], name: str) -> Iterator[Item]:
    """The items one after the other, with a bar."""
    with progress_bar() as progress:
        yield from progress.track(items, description=name)
