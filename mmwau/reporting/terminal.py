"""What the tools print in a terminal: texts as they are."""

from rich.console import Console
from rich.progress import TextColumn


def text_console(width: int, **options) -> Console:
    """A console for texts in which brackets and colons are no markup, as in paths: ``x [v1]/``.

    Args:
        width: Columns where what is printed goes to no terminal.
        options: More arguments of :class:`rich.console.Console`.
    """
    options = dict(markup=False, emoji=False, **options)
    console = Console(**options)
    return console if console.is_terminal else Console(width=width, **options)


def task_name() -> TextColumn:
    """The column of a progress bar that names its task, as it is."""
    return TextColumn('{task.description}', markup=False)
