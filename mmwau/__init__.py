"""mmwau: weight asynchronous update (WAU) for OpenMMLab. Importing it registers everything."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

from .core import openmp  # noqa: F401  (before torch)

# isort: split
from .attach import attach
from .skipping import HeldGradSkipper
from .targets import find_layers
from .version import __version__
from .wau import WAU

__all__ = ['WAU', 'HeldGradSkipper', '__version__', 'attach', 'find_layers']

if TYPE_CHECKING or find_spec('mmengine'):  # the method itself needs only torch
    from . import models  # noqa: F401
    from .comparison import BornAgainHook, DropoutHook, DSDHook, OrthogonalityHook, RePrHook
    from .datasets import cifar  # noqa: F401
    from .engine.optim_wrapper import WAUAmpOptimWrapper, WAUOptimWrapper
    from .engine.overlap_hook import OverlapHook
    from .engine.wau_hook import WAUHook

    __all__ += ['OverlapHook', 'WAUAmpOptimWrapper', 'WAUHook', 'WAUOptimWrapper']
    __all__ += ['BornAgainHook', 'DSDHook', 'DropoutHook', 'OrthogonalityHook', 'RePrHook']
else:

    def __getattr__(name: str) -> NoReturn:
        if name.endswith(('Hook', 'OptimWrapper')):
            raise ModuleNotFoundError(
                f'mmwau.{name} needs MMEngine, which is not installed. Install it with: '
                "pip install 'mmwau[engine]', or mmengine of OpenMMLab",
                name='mmengine',
            )
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
