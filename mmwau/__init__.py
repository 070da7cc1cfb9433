"""mmwau: weight asynchronous update (WAU) for OpenMMLab. Importing it registers everything."""

from typing import TYPE_CHECKING, NoReturn

from .core import openmp  # noqa: F401  (before torch)

# isort: split
from .attach import attach
from .skipping import HeldGradSkipper
from .targets import find_layers
from .version import __version__
from .wau import WAU

__all__ = ['WAU', 'HeldGradSkipper', '__version__', 'attach', 'find_layers']

# The method itself needs only torch.
try:
    import mmengine.runner  # noqa: F401
except ModuleNotFoundError as error:
    _lacking = error.name
else:
    _lacking = None

if TYPE_CHECKING or _lacking is None:
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
            of_it = '' if _lacking == 'mmengine' else f', and that {_lacking}'
            raise ModuleNotFoundError(
                f'mmwau.{name} needs MMEngine{of_it}, which is not installed. Install it with: '
                "pip install 'mmwau[engine]', or mmengine of OpenMMLab",
                name=_lacking,
            )
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
