"""A convolution whose backward pass computes the weight gradients of its active slices alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import Node
from torch.nn import Parameter

from .checks import is_capturing
from .method_patch import MethodPatch
from .sharding import is_one_of_several
from .slices import ALL, ActiveGrads, Convolution, Layer, Slices

try:
    from torch.compiler import is_compiling as is_compiling
except ImportError:  # torch 2.1 and 2.2
    from torch._dynamo import is_compiling as is_compiling

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Backends compute channels in blocks and prepare a kernel for each new shape: some held slices
# are computed too, so that the number of slices is a multiple of this.
BLOCK = 16
# A slice is skipped where its gradient is this many multiplications, or more, for each element
# that is gathered. See docs/speed.md.
MIN_SAVED = 64
# The method of a convolution that a skipper takes the place of, on the instance.
PATCHED = '_conv_forward'


def why_not(module: nn.Module) -> str:
    """Why a layer's gradients can't be skipped, or an empty string if they can."""
    if not isinstance(module, CONVOLUTIONS):
        return f'{type(module).__name__} is not one of Conv1d, Conv2d, Conv3d'
    is_own = all(type(module)._conv_forward is not kind._conv_forward for kind in CONVOLUTIONS)
    if is_own or PATCHED in module.__dict__:
        return f'{type(module).__name__} convolves in a way of its own'
    if module.weight.is_complex():
        return 'its weight is complex'
    return _why_not_in_this_pass(module)


def _why_not_in_this_pass(module: Convolution) -> str:
    """Why the geometry that a convolution has now can't be skipped, or an empty string."""
    if module.groups > 1:
        return 'grouped'
    if module.padding_mode != 'zeros':
        return f'padding_mode={module.padding_mode!r}'
    if _padding(module) is None:
        return "padding='same' with a kernel of even size"
    return ''


def _padding(module: Convolution) -> tuple[int, ...] | None:
    """Padding on each side, or None where the two sides differ."""
    if not isinstance(module.padding, str):
        return module.padding
    if module.padding == 'valid':
        return (0,) * len(module.kernel_size)
    sizes = zip(module.dilation, module.kernel_size, strict=True)
    total = [dilation * (size - 1) for dilation, size in sizes]
    return None if any(size % 2 for size in total) else tuple(size // 2 for size in total)


class NarrowConvolution(MethodPatch):
    """A convolution that computes the weight gradients of its active slices alone."""

    method = PATCHED
    module: Convolution

    def __init__(self, module: Convolution, layer: Layer, grads: ActiveGrads, full_grads: bool):
        super().__init__(module, layer, grads, full_grads)
        self.tensors, self.dim = layer.tensors, layer.tensors[0][1]
        self.fan = self.weight.numel() // self.weight.size(self.dim)
        # Indices of the active slices, and of those that are computed. None: all are.
        self.active: Tensor | None = None
        self.computed: Tensor | None = None

    def select(self, slices: Slices | None, selection: Sequence[Tensor]) -> None:
        """Take a new selection of all layers, with the slices of the weight if some are held."""
        self.active = self.computed = None
        self.selection = selection
        if slices is None:
            self.reason = 'all their slices are active'
            return
        active, held = slices.active, slices.held
        # The layer is not whole.
        assert active is not ALL
        assert held is not ALL
        num_active, num_held = len(active), len(held)
        num_more = min(-num_active % BLOCK, num_held)
        fraction_skipped = (num_held - num_more) / (num_active + num_held)
        if num_active and fraction_skipped * self.fan >= MIN_SAVED:
            self.computed = torch.cat([active, held[:num_more]])
            self.active = active
        else:
            self.reason = 'so few slices are held that skipping them costs more than it saves'

    def enter(self) -> bool:
        """Skip in the forward pass that begins; return whether :meth:`leave` has to follow."""
        self.start()
        return self.runs

    def leave(self, output: object = None) -> None:
        """Leave the module as it was, after one forward pass."""
        self.stop()

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve; the arguments are those of ``_conv_forward``."""
        if (
            is_compiling()
            or not self.runs
            or self.active is None
            or is_capturing()
            or not torch.is_grad_enabled()
            # Computed from the parameters, or replicas of them.
            or weight is not self.weight
            or bias is not self.module._parameters.get('bias')
            or x.dim() != weight.dim()
            or x.numel() == 0
            or _why_not_in_this_pass(self.module)
            # torch.func (vmap, ...) and forward-mode derivatives take torch's own functions alone.
            or torch._C._are_functorch_transforms_active()
            or forward_ad._current_level >= 0
        ):
            return self.forward(x, weight, bias)
        return _ConvolutionOfActive.apply(x, weight, bias, self)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve as the module does without this."""
        return type(self.module)._conv_forward(self.module, x, weight, bias)

    def put_grad(
        self, param: Parameter, dim: int, active: Tensor, rows: Tensor, node: Node
    ) -> Tensor | None:
        """Bring the gradient of active slices where it belongs; return what autograd takes on."""
        self.has_skipped = True
        rows = rows.narrow(dim, 0, len(active)).to(param.dtype)
        # Whoever hooks into the gradient of a parameter gets it in full.
        has_hooks = param._backward_hooks or param._post_accumulate_grad_hooks
        accumulates = _accumulates(node)
        if accumulates:
            self.grads.active = self.selection
        if self.full_grads or is_one_of_several() or has_hooks or not accumulates:
            return torch.zeros_like(param).index_copy_(dim, active, rows)
        self.grads[param] = self.grads[param] + rows if param in self.grads else rows
        return None

    def flush(self) -> None:
        """Move gradients into ``grad`` of the parameters, in full."""
        for param, dim in self.tensors:
            if param in self.grads:
                assert self.active is not None  # or no gradients of its slices were kept
                rows = self.grads.pop(param)
                full = torch.zeros_like(param.data).index_copy_(dim, self.active, rows)
                param.grad = full if param.grad is None else param.grad + full


def _accumulates(node: Node) -> bool:
    """Whether the backward pass under way adds to ``grad`` of the parameter with this node."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # torch.autograd.grad takes it instead
        return False


def _gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    mask: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of the input, the weight and the bias, each where the mask has it.

    The geometry is stride, padding and dilation, with a number for each spatial dimension.
    """
    bias_size, output_padding, groups = [grad.size(1)], [0] * len(geometry[0]), 1
    rest = (*geometry, False, output_padding, groups, mask)
    return torch.ops.aten.convolution_backward(grad, x, weight, bias_size, *rest)


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """Keep casts that are made here, where nothing is recorded, out of autocast's cache.

    Whoever uses the same weight or input later gets what the cache has: a cast that leads to no
    gradient.
    """
    was_enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(was_enabled)


class _ConvolutionOfActive(torch.autograd.Function):
    """A convolution whose backward pass computes weight gradients of active slices alone.

    It saves the tensors that the plain one saves, in the same order: activation checkpointing may
    compute the forward pass a second time without it.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, own: NarrowConvolution
    ) -> Tensor:
        with _without_autocast_cache():
            y = own.forward(x, weight, bias)
        # Autocast has cast them in there. The backward pass does it again, so that derivatives of
        # it lead back to them.
        ctx.save_for_backward(x, weight)
        ctx.dtype = y.dtype
        # A module may change it from one pass to the next.
        ctx.geometry = own.module.stride, _padding(own.module), own.module.dilation
        ctx.own, ctx.bias = own, bias
        ctx.active, ctx.computed = own.active, own.computed
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, weight = (saved.to(ctx.dtype) for saved in ctx.saved_tensors)
        own, active, geometry = ctx.own, ctx.active, ctx.geometry
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        if own.active is not active:
            # The graph is older than the selection, which may need what that one would skip.
            return *_gradients(grad, x, weight, geometry, [of_x, of_weight, of_bias]), None
        grad_x = grad_weight = grad_bias = None
        if of_x:
            grad_x = _gradients(grad, x, weight, geometry, [True, False, False])[0]
        rows_of_bias = of_bias and len(own.tensors) > 1
        if own.dim == 0:
            grad_of_rows, x_of_rows = gather_channels(grad, ctx.computed), x
        else:
            grad_of_rows, x_of_rows = grad, gather_channels(x, ctx.computed)
        # Of the weight, only the shape and the memory format count here.
        narrow = weight.narrow(own.dim, 0, len(ctx.computed))
        mask = [False, True, rows_of_bias]
        _, rows, bias_rows = _gradients(grad_of_rows, x_of_rows, narrow, geometry, mask)
        if of_weight:
            node = ctx.next_functions[1][0]
            grad_weight = own.put_grad(own.weight, own.dim, active, rows, node)
        if rows_of_bias:
            node = ctx.next_functions[2][0]
            grad_bias = own.put_grad(ctx.bias, 0, active, bias_rows, node)
        elif of_bias:
            grad_bias = grad.sum(dim=[0, *range(2, grad.dim())])
        return grad_x, grad_weight, grad_bias, None


def gather_channels(x: Tensor, channels: Tensor) -> Tensor:
    """Gather channels of x, of shape (batch, channels, ...), keeping its memory format."""
    last = x.movedim(1, -1)
    if last.is_contiguous() and not x.is_contiguous():
        return last.gather(-1, channels.expand(*last.shape[:-1], -1)).movedim(-1, 1)
    return x.index_select(1, channels)
