"""How every script of ``tools`` ends: where data or settings are wrong, and on a signal."""

import linecache
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# Where the package is, and the scripts: in the repository, or in an installed package.
OWN = (PACKAGE, PACKAGE.parent / 'tools')


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script to its end; what it returns is the exit status, None for 0.

    Exit status 2 is argparse's, for wrong use. Where the script finds something wrong with what it
    was given, it ends with the error's name and sentence on the standard error, and status 1.
    Other errors are bugs, and keep their traceback.
    """
    try:
        status = main()
    except (OSError, ValueError, TypeError, ImportError) as error:
        if not is_told(error):
            raise
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        status = 1
    if status:
        sys.exit(status)


def is_told(error: Exception) -> bool:
    """Whether an error says all to the reader: raised on purpose here, or about a file."""
    if isinstance(error, OSError) and error.filename is not None:
        return True
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    file = Path(frame.f_code.co_filename).resolve()
    line = linecache.getline(str(file), number)
    return line.lstrip().startswith('raise ') and any(map(file.is_relative_to, OWN))


def end_on_signals() -> None:
    """End by an exception where a signal would end this process, with what it has started."""
    for one in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(one) != signal.SIG_IGN:  # nohup
            signal.signal(one, lambda number, _: sys.exit(128 + number))
