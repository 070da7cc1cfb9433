"""What has to be done on leaving, by whatever way: an error, or Ctrl-C at any moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def each_on_leaving() -> Iterator[list[Callable[[], object]]]:
    """Call each function of a list on leaving, in its order, whatever failed before.

    The first error is the one that is raised.
    """
    functions: list[Callable[[], object]] = []
    errors: list[BaseException] = []
    try:
        yield functions
    except BaseException as error:
        errors.append(error)
    with without_interrupts():
        for function in functions:
            try:
                function()
            except BaseException as error:
                errors.append(error)
    if errors:
        raise errors[0]


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait until what is done inside is done.

    Only where it would raise a KeyboardInterrupt: in the main thread, by Python's own handler.
    """
    if not raises_interrupts():
        yield
        return
    pressed = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if pressed:
            signal.default_int_handler(signal.SIGINT, pressed[0])


def raises_interrupts() -> bool:
    """Whether Ctrl-C raises a KeyboardInterrupt in this thread, by Python's own handler."""
    return (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
