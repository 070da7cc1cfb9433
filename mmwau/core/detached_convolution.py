"""A convolution that is held as a whole: autograd is told that it has no parameters to train."""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import Parameter

from .narrow_convolution import is_compiling
from .slices import Layer, Slices

# The method of a convolution that this takes the place of, on the instance.
PATCHED = 'forward'


class DetachedConvolution:
    """Takes the place of one module's ``forward``, on that module alone, while it runs.

    In a forward pass of a layer that is held, the module has its parameters detached from the
    graph. So autograd computes no gradient of them, whatever the kind of convolution, keeps no
    input for it, and leaves out the gradient of the input too where nothing before it trains.
    (``requires_grad`` of the parameters themselves stays: ``torch.compile`` would compile anew for
    each selection, and ``DistributedDataParallel`` wait for gradients that never come.)

    Args:
        module: The convolution.
        layer: Its layer.
        full_grads: Whether its parameters get a gradient of zeros, rather than none.
    """

    def __init__(self, module: nn.Module, layer: Layer, full_grads: bool):
        self.module = module
        self.weight = layer.tensors[0][0]
        own = {id(param) for param, _ in layer.tensors}
        self.places = [
            (owner, name, param)
            for owner in module.modules()
            for name, param in owner._parameters.items()
            if param is not None and id(param) in own
        ]
        self.full_grads = full_grads
        self.reason = 'compiled, or not used in the first update'
        self.is_held = self.runs = self._is_inside = self._has_skipped = False

    @property
    def has_skipped(self) -> bool:
        """Whether it has skipped, or had nothing to skip so far."""
        return self._has_skipped or not self.is_held

    def select(self, slices: Slices | None, selection: Sequence[Tensor]) -> None:
        """Take a new selection.

        Args:
            slices: Those of the weight, or None where it is active.
            selection: Of all layers.
        """
        self.is_held = slices is not None

    def start(self) -> None:
        """Skip in forward passes of this module, where it is held."""
        # Also where it is not: torch.compile compiles anew when a module has changed.
        self.runs = True
        self.module.__dict__[PATCHED] = self

    def stop(self) -> None:
        """Leave the module as it was."""
        # Whoever has kept it meanwhile, such as a patch around it, has the plain layer from here.
        self.runs = False
        self._put_back()
        if self.module.__dict__.get(PATCHED) is self:
            del self.module.__dict__[PATCHED]

    def flush(self) -> None:
        """Do nothing: no gradients are kept aside."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Convolve; the arguments are those of the module."""
        plain = type(self.module).forward
        if not self.runs or is_compiling():
            return plain(self.module, *args, **kwargs)
        try:
            self.enter()
            output = plain(self.module, *args, **kwargs)
            joined = self.leave(output)
        finally:
            self._put_back()
        return output if joined is None else joined

    def enter(self) -> None:
        """Detach the parameters, if they are held, for the forward pass that begins."""
        if (
            self.is_held
            and not self._is_inside
            and torch.is_grad_enabled()
            and not torch._C._are_functorch_transforms_active()
            and all(owner._parameters.get(name) is param for owner, name, param in self.places)
            # Whose output can be joined.
            and (isinstance(self.module, nn.modules.conv._ConvNd) or not self._is_waited_for())
        ):
            self._is_inside = self._has_skipped = True
            for owner, name, param in self.places:
                owner._parameters[name] = param.detach()  # type: ignore[assignment]  # for one pass

    def leave(self, output: object = None) -> object:
        """Put the parameters back after a forward pass.

        Args:
            output: Of the forward pass, or None if it failed.

        Returns:
            What takes its place, or None if nothing does.
        """
        was_inside = self._is_inside
        self._put_back()
        if was_inside and output is not None and self._is_waited_for():
            return _WithZeros.apply(output, *(param for _, _, param in self.places))
        return None

    def _put_back(self) -> None:
        for owner, name, param in self.places if self._is_inside else ():
            owner._parameters[name] = param
        self._is_inside = False

    def _is_waited_for(self) -> bool:
        """Whether gradients have to come: of zeros, for which a step or other processes wait."""
        return self.full_grads or (distributed.is_available() and distributed.is_initialized())

    def __reduce__(self) -> tuple:
        # Copies of the module, by deepcopy or pickle, convolve as ever.
        return getattr, (self.module, PATCHED)


class _WithZeros(torch.autograd.Function):
    """Brings parameters into the graph again, with zeros for their gradients."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *params: Parameter) -> Tensor:
        ctx.params = params
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return grad, *map(torch.zeros_like, ctx.params)


def why_not_whole(module: nn.Module) -> str:
    """Why a layer that is held can't be left out of the backward pass, or an empty string."""
    if PATCHED in module.__dict__:
        return f'{type(module).__name__} convolves in a way of its own'
    return ''


def remove_stale_forward(module: nn.Module) -> None:
    """Remove what another skipper has left: it was killed, or the module is a copy made inside."""
    patch = module.__dict__.get(PATCHED)
    if isinstance(patch, DetachedConvolution) or patch == MethodType(type(module).forward, module):
        del module.__dict__[PATCHED]
