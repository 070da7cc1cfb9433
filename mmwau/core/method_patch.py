"""What takes the place of a method of one convolution while it skips gradients."""

from collections.abc import Sequence
from types import MethodType

from torch import Tensor, nn

from .slices import ActiveGrads, Layer


class MethodPatch:
    """Takes the place of a module's method, on that module alone, while it runs.

    Args:
        module: The convolution.
        layer: Its layer.
        grads: Gets the selection under which it skips.
        full_grads: Whether gradients go into ``grad`` of the parameters, with zeros for what is
            held.
    """

    # Name of the method.
    method: str

    def __init__(self, module: nn.Module, layer: Layer, grads: ActiveGrads, full_grads: bool):
        self.module, self.weight = module, layer.tensors[0][0]
        self.grads, self.full_grads = grads, full_grads
        self.selection: Sequence[Tensor] | None = None
        self.has_skipped = self.runs = False
        self.reason = 'compiled, or not used in the first update'

    def start(self) -> None:
        """Skip in forward passes of this module, where the selection holds anything."""
        # Also where it does not: torch.compile compiles anew when a module has changed. What
        # somebody else has put there meanwhile stays.
        there = self.module.__dict__.get(self.method)
        self.runs = there is None or type(there) is type(self)
        if self.runs:
            self.module.__dict__[self.method] = self

    def stop(self) -> None:
        """Leave the module as it was."""
        # Whoever has kept it meanwhile, such as a patch around it, has the plain layer from here.
        self.runs = False
        if self.module.__dict__.get(self.method) is self:
            del self.module.__dict__[self.method]

    def __reduce__(self) -> tuple:
        # Copies of the module, by deepcopy or pickle, convolve as ever.
        return getattr, (self.module, self.method)


def remove_stale(module: nn.Module, method: str) -> None:
    """Remove what another skipper has left: it was killed, or the module is a copy made inside."""
    there, plain = module.__dict__.get(method), getattr(type(module), method, None)
    is_plain = plain is not None and there == MethodType(plain, module)
    if isinstance(there, MethodPatch) or is_plain:
        del module.__dict__[method]
