"""A convolution that is held as a whole: autograd is told that it has no parameters to train."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import forward_ad
from torch.nn import Parameter

from .checks import is_capturing
from .method_patch import MethodPatch
from .narrow_convolution import is_compiling
from .slices import ActiveGrads, Layer, Slices


class DetachedConvolution(MethodPatch):
    """A convolution that has its parameters detached from the graph while it is held.

    So autograd computes no gradient of them, whatever the kind of convolution, keeps no
    input for it, and leaves out the gradient of the input too where nothing before it trains.
    (``requires_grad`` of the parameters themselves stays: ``torch.compile`` would compile anew for
    each selection, and ``DistributedDataParallel`` wait for gradients that never come.)
    """

    method = 'forward'

    def __init__(self, module: nn.Module, layer: Layer, grads: ActiveGrads, full_grads: bool):
        super().__init__(module, layer, grads, full_grads)
        own = {id(param) for param, _ in layer.tensors}
        self.places = [
            (owner, name, param)
            for owner in module.modules()
            for name, param in owner._parameters.items()
            if param is not None and id(param) in own
        ]
        self.is_held = self.is_all_held = False
        # What takes the places of the parameters in the forward pass under way.
        self._detached: list[Tensor] = []

    def select(self, slices: Slices | None, selection: Sequence[Tensor]) -> None:
        """Take a new selection of all layers, with the slices of the weight if it is held."""
        self.selection = selection
        self.is_held = slices is not None
        self.is_all_held = slices is not None and slices.fraction == 0

    def stop(self) -> None:
        """Leave the module as it was."""
        super().stop()
        self._put_back()

    def flush(self) -> None:
        """Do nothing: no gradients are kept aside."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Convolve; the arguments are those of the module."""
        plain = type(self.module).forward
        if not self.runs or is_compiling():
            return plain(self.module, *args, **kwargs)
        # By another thread, which puts them back.
        was_inside = bool(self._detached)
        try:
            self.enter()
            output = plain(self.module, *args, **kwargs)
            joined = None if was_inside else self.leave(output)
        finally:
            if not was_inside:
                self._put_back()
        return output if joined is None else joined

    def enter(self) -> bool:
        """Detach the parameters, if they are held, for the forward pass that begins.

        Returns:
            Whether it did, so that :meth:`leave` has to follow.
        """
        if not self.is_held:
            # It has had nothing to skip in a pass in which it could.
            self.has_skipped = True
            return False
        if (
            self._detached
            or not torch.is_grad_enabled()
            or torch.jit.is_tracing()
            or is_capturing()
            # torch.func (vmap, ...) and forward-mode derivatives do not know our join.
            or torch._C._are_functorch_transforms_active()
            or forward_ad._current_level >= 0
            or any(owner._parameters.get(name) is not param for owner, name, param in self.places)
        ):
            return False
        if self._is_waited_for() and not isinstance(self.module, nn.modules.conv._ConvNd):
            self.reason = f'{type(self.module).__name__} brings no zeros, which are waited for'
            return False
        self.has_skipped = True
        self.grads.active = self.selection
        self._detached = [param.detach() for _, _, param in self.places]
        for (owner, name, _), detached in zip(self.places, self._detached, strict=True):
            owner._parameters[name] = detached  # type: ignore[assignment]  # for one pass
        return True

    def leave(self, output: object = None) -> object:
        """Put the parameters back after a forward pass.

        Args:
            output: Of the forward pass, or None if it failed.

        Returns:
            What takes its place, or None if nothing does.

        Raises:
            TypeError: If gradients are waited for, and the output is none that can bring them.
        """
        was_inside = bool(self._detached)
        self._put_back()
        if not was_inside or output is None or not self._is_waited_for():
            return None
        if not isinstance(output, Tensor):
            raise TypeError(
                f'WAU can skip the gradients of {type(self.module).__name__} only if its output '
                f'is a tensor, got {type(output).__name__}. Set skip_held_grads=False'
            )
        return _WithZeros.apply(output, *(param for _, _, param in self.places))

    def _put_back(self) -> None:
        for (owner, name, param), detached in zip(self.places, self._detached, strict=False):
            # Unless somebody has put another parameter there meanwhile.
            if owner._parameters.get(name) is detached:
                owner._parameters[name] = param
        self._detached = []

    def _is_waited_for(self) -> bool:
        """Whether gradients have to come, if only zeros.

        A step or other processes wait for them; or, where every layer is held, the backward pass
        itself and a ``GradScaler``.
        """
        is_one_of_many = distributed.is_available() and distributed.is_initialized()
        return self.full_grads or is_one_of_many or self.is_all_held


class _WithZeros(torch.autograd.Function):
    """Brings parameters into the graph again, with zeros for their gradients."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *params: Parameter) -> Tensor:
        ctx.params = params
        # Unlike a view, it may be changed in place, by nn.ReLU(inplace=True) for example.
        return output.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return grad, *map(torch.zeros_like, ctx.params)


def why_not_whole(module: nn.Module) -> str:
    """Why a layer that is held can't be left out of the backward pass, or an empty string."""
    if DetachedConvolution.method in module.__dict__:
        return f'{type(module).__name__} convolves in a way of its own'
    if isinstance(module.__dict__.get('weight'), Tensor):
        return 'its weight is computed before its forward pass (torch.nn.utils.weight_norm)'
    return ''
