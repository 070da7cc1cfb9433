"""A hook of one module that keeps nothing alive and that copies of the module do not have."""

import weakref
from collections.abc import Callable

from torch import nn

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
