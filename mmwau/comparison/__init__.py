"""The methods that WAU's paper is compared with: a file for each, registered as hooks."""

from .born_again import BornAgainHook
from .dropout import DropoutHook
from .dsd import DSDHook
from .orthogonality import OrthogonalityHook
from .repr import RePrHook

__all__ = ['BornAgainHook', 'DSDHook', 'DropoutHook', 'OrthogonalityHook', 'RePrHook']
