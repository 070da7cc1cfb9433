"""Skip the gradients of held slices: a convolution computes those of its active slices alone.

Under ``hold='state'`` and ``'grad'`` nobody reads the gradients of held slices. The backward pass
of a convolution has two halves of about equal cost: the gradient of its input, which is needed in
full, and that of its weight, of which only the active slices are needed. A slice of the weight
takes part through one channel alone, of the output (``axis='out'``) or of the input (``'in'``), so
that the gradient of the active slices is that of a narrower convolution over those channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from .wau import Layer

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class HeldGradSkipper:
    """Lets the convolutions of a model skip the gradients of held slices, between start and stop.

    The gradient of a held slice is zero then, and that of an active slice is what it is without
    skipping, up to the order in which floats are summed. The result of the forward pass, the
    class of the modules and the keys of their state_dict do not change::

        skipper = HeldGradSkipper(model, layers)
        for update, batch in enumerate(batches):
            active = wau.select(layers.values(), update)
            with skipper.skipping(active):
                loss_of(model, batch).backward()
            with wau.holding(optimizer, layers.values(), active):
                optimizer.step()
            optimizer.zero_grad()

    Args:
        model: The model, not wrapped for distributed training.
        layers: Its layers by name of the convolution, from :func:`mmwau.targets.find_layers`.

    Attributes:
        refused: Reasons by name of the layer, of layers whose gradients are computed in full.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]):
        self.refused: dict[str, str] = {}
        self._convolutions: list[_SkippingConvolution | None] = []
        for name, layer in layers.items():
            module = model.get_submodule(name)
            reason = why_not(module)
            if reason:
                self.refused[name] = reason
            self._convolutions.append(None if reason else _SkippingConvolution(module, layer))

    def start(self, active: Sequence[Tensor]) -> None:
        """Skip from now on, in every backward pass of a forward pass made until :meth:`stop`.

        Args:
            active: For each layer a bool tensor of shape (num_slices,), True where active.
        """
        for convolution, mask in zip(self._convolutions, active, strict=True):
            if convolution is not None:
                convolution.start(mask)

    def stop(self) -> None:
        """Leave the modules as they were."""
        for convolution in self._convolutions:
            if convolution is not None:
                convolution.stop()

    @contextmanager
    def skipping(self, active: Sequence[Tensor]) -> Iterator[None]:
        """Skip in the forward and backward passes made inside; see :meth:`start`."""
        self.start(active)
        try:
            yield
        finally:
            self.stop()


def why_not(module: nn.Module) -> str:
    """Why a layer's gradients can't be skipped, or an empty string if they can."""
    if not isinstance(module, CONVOLUTIONS):
        return f'{type(module).__name__} is not one of Conv1d, Conv2d, Conv3d'
    if not any(type(module)._conv_forward is kind._conv_forward for kind in CONVOLUTIONS):
        return f'{type(module).__name__} convolves in a way of its own'
    if module.groups > 1:
        return 'grouped'
    if module.padding_mode != 'zeros':
        return f'padding_mode={module.padding_mode!r}'
    if _padding(module) is None:
        return "padding='same' with a kernel of even size"
    return ''


def _padding(module: nn.Module) -> tuple[int, ...] | None:
    """Padding on each side, or None where the two sides differ."""
    if module.padding == 'valid':
        return (0,) * len(module.kernel_size)
    if module.padding == 'same':
        sizes = zip(module.dilation, module.kernel_size, strict=True)
        total = [dilation * (size - 1) for dilation, size in sizes]
        return None if any(size % 2 for size in total) else tuple(size // 2 for size in total)
    return module.padding


class _SkippingConvolution:
    """Takes the place of one module's ``_conv_forward``, on that module alone."""

    def __init__(self, module: nn.Module, layer: Layer):
        self.module = module
        self.weight, self.dim = layer.tensors[0]
        self.bias_is_held = len(layer.tensors) > 1
        self.geometry = module.stride, _padding(module), module.dilation

    def start(self, active: Tensor) -> None:
        if active.all():
            self.stop()
            return
        self.active = active.nonzero().squeeze(1).to(self.weight.device, non_blocking=True)
        self.module.__dict__['_conv_forward'] = self

    def stop(self) -> None:
        self.module.__dict__.pop('_conv_forward', None)

    def __call__(self, x: Tensor, weight: Tensor, bias: Parameter | None) -> Tensor:
        # A weight that was computed from the parameter, or a replica of it, is none of ours.
        if (
            weight is not self.weight
            or not torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or x.dim() != weight.dim()
            or x.numel() == 0
        ):
            return type(self.module)._conv_forward(self.module, x, weight, bias)
        return _ConvolutionOfActive.apply(x, weight, bias, self, self.active)

    def __reduce__(self) -> tuple:
        # Copies of the module, by deepcopy or pickle, convolve as ever.
        return MethodType, (type(self.module)._conv_forward, self.module)


class _ConvolutionOfActive(torch.autograd.Function):
    """A convolution whose backward pass computes weight gradients of active slices alone."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, own: _SkippingConvolution, active
    ) -> Tensor:
        y = type(own.module)._conv_forward(own.module, x, weight, bias)
        # Under autocast the convolution has cast its inputs; the backward pass needs them so.
        ctx.save_for_backward(x.to(y.dtype), weight.to(y.dtype), active)
        ctx.own = own
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight, active = ctx.saved_tensors
        own, needed = ctx.own, ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None

        def backward(grad, x, weight, mask):
            sizes = [grad.size(1)]
            rest = (own.geometry[0], own.geometry[1], own.geometry[2], False, [0] * (x.dim() - 2))
            return torch.ops.aten.convolution_backward(grad, x, weight, sizes, *rest, 1, mask)

        if needed[0]:
            grad_x = backward(grad, x, weight, [True, False, False])[0]
        narrow = weight.narrow(own.dim, 0, len(active))
        held_bias = needed[2] and own.bias_is_held
        if own.dim == 0:
            grad_active = gather_channels(grad, active)
            _, rows, bias_rows = backward(grad_active, x, narrow, [False, needed[1], held_bias])
        else:
            x_active = gather_channels(x, active)
            _, rows, bias_rows = backward(grad, x_active, narrow, [False, needed[1], False])
        if needed[1]:
            grad_weight = torch.zeros_like(own.weight)
            grad_weight.index_copy_(own.dim, active, rows.to(grad_weight.dtype))
        if held_bias:
            grad_bias = own.weight.new_zeros(own.weight.size(0))
            grad_bias.index_copy_(0, active, bias_rows.to(grad_bias.dtype))
        elif needed[2]:
            grad_bias = grad.sum(dim=[0, *range(2, grad.dim())])
        return grad_x, grad_weight, grad_bias, None, None


def gather_channels(x: Tensor, channels: Tensor) -> Tensor:
    """Gather channels of x, of shape (batch, channels, ...), keeping its memory format."""
    last = x.movedim(1, -1)
    if last.is_contiguous() and not x.is_contiguous():
        return last.gather(-1, channels.expand(*last.shape[:-1], -1)).movedim(-1, 1)
    return x.index_select(1, channels)
