"""Hooks around the forward passes of single modules, and what they do on Ctrl-C."""

import signal
import threading
import weakref
from collections.abc import Callable
from types import FrameType

from torch import nn

from mmwau.core.detached_convolution import DetachedConvolution
from mmwau.core.leaving import raises_interrupts
from mmwau.skipping import Patch


class ModuleHook:
    """A hook of one module; copies of the module have one without effect.

    Args:
        act: Is called with the owner, the patch and the output of the module, where there is one.
        attached: The owner, which the model does not keep alive.
        patch: What takes the place of a method of the module.
    """

    def __init__(self, act: Callable, attached: object, patch: Patch):
        self.act, self.attached, self.patch = act, weakref.ref(attached), patch
        self.__name__ = 'mmwau_hook'

    def __call__(self, module: nn.Module, inputs: tuple, output: object = None) -> object:
        """Act, unless the owner is gone or the module is a copy."""
        attached = self.attached()
        if attached is not None and module is self.patch.module:
            return self.act(attached, self.patch, output)
        return None

    def __reduce__(self) -> tuple:
        return _no_hook, ()


def _no_hook() -> Callable[..., None]:
    return _do_nothing


def _do_nothing(*args: object) -> None:
    pass


class Passes(threading.local):
    """The forward passes of this thread that skip, each between two hooks of its module.

    If Ctrl-C ends a pass, torch does not call the second hook. So a pass is left before the
    KeyboardInterrupt is raised: nobody finds a module as it is inside of one.
    """

    def __init__(self) -> None:
        # Several, where a convolution has another one inside.
        self._under_way: list[Patch] = []
        self._takes_interrupts = False

    def enter(self, patch: Patch) -> None:
        """Skip in the forward pass of one module that begins."""
        # A signal handler takes as long as a small convolution: only where it is needed.
        detaches = isinstance(patch, DetachedConvolution) and patch.is_held
        if detaches and not self._takes_interrupts and raises_interrupts():
            signal.signal(signal.SIGINT, self._interrupt)
            self._takes_interrupts = True
        self._under_way.append(patch)
        if not patch.enter():
            self._end(patch)

    def leave(self, patch: Patch, output: object = None) -> object:
        """End the pass of one module, if it skips; its output is None if it failed.

        Returns:
            What takes the place of the output, or None if nothing does.
        """
        if patch not in self._under_way:
            return None
        try:
            return patch.leave(output)
        finally:
            self._end(patch)

    def leave_all(self) -> None:
        """End all of them."""
        for patch in list(self._under_way):
            self.leave(patch)

    def _end(self, patch: Patch) -> None:
        if patch in self._under_way:
            self._under_way.remove(patch)
        if self._takes_interrupts and not self._under_way:
            self._takes_interrupts = False
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.leave_all()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.default_int_handler(number, frame)
