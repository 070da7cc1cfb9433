"""Skip the gradients of held slices: a convolution computes those of its active slices alone.

Under ``hold='state'`` and ``'grad'`` nobody reads the gradients of held slices. The backward pass
of a convolution has two halves of about equal cost: the gradient of its input, which is needed in
full, and that of its weight, of which only the active slices are needed. A slice of the weight
takes part through one channel alone, of the output (``axis='out'``) or of the input (``'in'``), so
that the gradient of the active slices is that of a narrower convolution over those channels.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import Parameter

from .sharding import is_one_of_several
from .slices import Layer, Slices, find_slices

try:
    from torch.compiler import is_compiling
except ImportError:  # torch 2.1 and 2.2
    from torch._dynamo import is_compiling

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Backends compute channels in blocks and prepare a kernel for each new shape: some held slices
# are computed too, so that the number of slices is a multiple of this.
BLOCK = 16
# A slice is skipped where its gradient is this many multiplications, or more, for each element
# that is gathered. See docs/speed.md.
MIN_SAVED = 64


class HeldGradSkipper:
    """Lets the convolutions of a model skip the gradients of held slices, between start and stop.

    The gradients of active slices are what they are without skipping, up to the order in which
    floats are summed. The result of the forward pass, the class of the modules and the keys of
    their state_dict do not change::

        layers = find_layers(model)
        skipper = HeldGradSkipper(model, layers)
        for update, batch in enumerate(batches):
            active = wau.select(layers, update)
            with skipper.skipping(active):
                loss_of(model, batch).backward()
            with wau.holding(optimizer, layers, active, skipper.grads):
                optimizer.step()
            optimizer.zero_grad()

    Args:
        model: The model, not wrapped for distributed training.
        layers: Its layers by name of the convolution, from :func:`mmwau.targets.find_layers`.
        full_grads: Where gradients go. True: into ``grad`` of each parameter, with zeros for the
            held slices. False: into :attr:`grads`, without the held slices; for ``hold='state'``
            with an optimizer that :func:`mmwau.held.can_step_active_alone`. Of several processes
            each one does as with True: what they send each other is in ``grad``.

    Attributes:
        grads: With ``full_grads=False``, gradients of active slices by parameter, for
            :meth:`mmwau.wau.WAU.holding`, which uses them up.
        refused: Reasons by name of the layer, of layers whose gradients are computed in full.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer], full_grads: bool = True):
        self.grads: dict[Parameter, Tensor] = {}
        self.refused: dict[str, str] = {}
        self._by_name: dict[str, _Convolution] = {}
        for name, layer in layers.items():
            module = model.get_submodule(name)
            reason = why_not(module)
            if reason:
                self.refused[name] = reason
            else:
                grads = None if full_grads else self.grads
                self._by_name[name] = _Convolution(module, layer, grads)
        self._convolutions = {each.weight: each for each in self._by_name.values()}
        self._layers = list(layers.values())
        self._active: list[Tensor] = []

    def start(self, active: Sequence[Tensor]) -> None:
        """Skip in every backward pass of a forward pass made from now on until :meth:`stop`.

        Args:
            active: For each layer a bool tensor of shape (num_slices,) on the CPU, True where
                active.

        Raises:
            ValueError: If :attr:`grads` has gradients of another selection.
        """
        self.stop()
        if self.grads and not all(map(torch.equal, self._active, active)):
            raise ValueError(
                'skipper.grads has gradients of another selection, which do not add up with those '
                'of this one. Use one selection until the step, which WAU.holding(..., '
                'skipper.grads) surrounds; to drop an update, call skipper.grads.clear() too'
            )
        self._active = list(active)
        found = {slices.param: slices for slices in find_slices(self._layers, active)}
        for weight, convolution in self._convolutions.items():
            if weight in found:
                convolution.start(found[weight])
            else:
                convolution.reason = 'all their slices are active'

    def stop(self) -> None:
        """Leave the modules as they were."""
        for convolution in self._convolutions.values():
            convolution.stop()

    def flush(self) -> None:
        """Move what is in :attr:`grads` into ``grad`` of the parameters, in full."""
        for convolution in self._convolutions.values():
            convolution.flush()

    @contextmanager
    def skipping(self, active: Sequence[Tensor]) -> Iterator[None]:
        """Skip in the forward and backward passes made inside; see :meth:`start`."""
        self.start(active)
        try:
            yield
        finally:
            self.stop()

    def find_full(self) -> dict[str, str]:
        """Find the layers that have skipped nothing so far, with the reasons."""
        full = dict(self.refused)
        for name, convolution in self._by_name.items():
            if not convolution.has_skipped:
                full[name] = convolution.reason
        return full


def why_not(module: nn.Module) -> str:
    """Why a layer's gradients can't be skipped, or an empty string if they can."""
    if not isinstance(module, CONVOLUTIONS):
        return f'{type(module).__name__} is not one of Conv1d, Conv2d, Conv3d'
    is_own = all(type(module)._conv_forward is not kind._conv_forward for kind in CONVOLUTIONS)
    if is_own or '_conv_forward' in module.__dict__:
        return f'{type(module).__name__} convolves in a way of its own'
    if module.weight.is_complex():
        return 'its weight is complex'
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


class _Convolution:
    """Takes the place of one module's ``_conv_forward``, on that module alone."""

    def __init__(self, module: nn.Module, layer: Layer, grads: dict[Parameter, Tensor] | None):
        self.module = module
        self.tensors = layer.tensors
        self.weight, self.dim = layer.tensors[0]
        self.fan = self.weight.numel() // self.weight.size(self.dim)
        self.geometry = module.stride, _padding(module), module.dilation
        self.grads = grads
        self.has_skipped = False
        self.reason = 'compiled, or not used in the first update'

    def start(self, slices: Slices) -> None:
        num_active, num_held = len(slices.active), len(slices.held)
        num_more = min(-num_active % BLOCK, num_held)
        fraction_skipped = (num_held - num_more) / (num_active + num_held)
        if num_active and fraction_skipped * self.fan >= MIN_SAVED:
            self.active = slices.active
            self.computed = torch.cat([slices.active, slices.held[:num_more]])
            self.module.__dict__['_conv_forward'] = self
        else:
            self.reason = 'so few slices are held that skipping them costs more than it saves'

    def stop(self) -> None:
        self.module.__dict__.pop('_conv_forward', None)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if (
            is_compiling()
            or not torch.is_grad_enabled()
            # Computed from the parameter, or a replica of it.
            or weight is not self.weight
            or x.dim() != weight.dim()
            or x.numel() == 0
        ):
            return self.forward(x, weight, bias)
        return _ConvolutionOfActive.apply(x, weight, bias, self, self.computed)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return type(self.module)._conv_forward(self.module, x, weight, bias)

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor, mask: list[bool]) -> tuple:
        """Gradients of the input, the weight and the bias, each where the mask has it."""
        stride, padding, dilation = self.geometry
        return torch.ops.aten.convolution_backward(
            grad, x, weight, [grad.size(1)], stride, padding, dilation,
            False, [0] * len(stride), 1, mask,
        )  # fmt: skip

    def weight_rows(
        self, grad: Tensor, x: Tensor, weight: Tensor, computed: Tensor, with_bias: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of the computed slices of the weight, and of their elements of the bias."""
        if self.dim == 0:
            grad = gather_channels(grad, computed)
        else:
            x = gather_channels(x, computed)
        # Of the weight, only the shape and the memory format count here.
        narrow = weight.narrow(self.dim, 0, len(computed))
        return self.backward(grad, x, narrow, [False, True, with_bias])[1:]

    def put_grad(
        self, param: Parameter, dim: int, active: Tensor, rows: Tensor, node: Node
    ) -> Tensor | None:
        """Bring the gradient of active slices where it belongs; return what autograd takes on."""
        self.has_skipped = True
        rows = rows.narrow(dim, 0, len(active)).to(param.dtype)
        # Whoever hooks into the gradient of a parameter gets it in full.
        has_hooks = param._backward_hooks or param._post_accumulate_grad_hooks
        if self.grads is None or is_one_of_several() or has_hooks or not _accumulates(node):
            return torch.zeros_like(param).index_copy_(dim, active, rows)
        self.grads[param] = self.grads[param] + rows if param in self.grads else rows
        return None

    def flush(self) -> None:
        for param, dim in self.tensors:
            if self.grads is not None and param in self.grads:
                full = torch.zeros_like(param.data).index_copy_(
                    dim, self.active, self.grads.pop(param)
                )
                param.grad = full if param.grad is None else param.grad + full

    def __reduce__(self) -> tuple:
        # Copies of the module, by deepcopy or pickle, convolve as ever.
        return getattr, (self.module, '_conv_forward')


def _accumulates(node: Node) -> bool:
    """Whether the backward pass under way adds to ``grad`` of the parameter with this node."""
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # torch.autograd.grad takes it instead
        return False


class _ConvolutionOfActive(torch.autograd.Function):
    """A convolution whose backward pass computes weight gradients of active slices alone."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, own: _Convolution, computed: Tensor
    ) -> Tensor:
        y = own.forward(x, weight, bias)
        # Autocast has cast the inputs in there; the backward pass takes them so.
        ctx.save_for_backward(x.to(y.dtype), weight.to(y.dtype), computed)
        ctx.own, ctx.bias, ctx.active = own, bias, own.active
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight, computed = ctx.saved_tensors
        own, bias, active = ctx.own, ctx.bias, ctx.active
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        if of_x:
            grad_x = own.backward(grad, x, weight, [True, False, False])[0]
        rows_of_bias = of_bias and len(own.tensors) > 1
        rows, bias_rows = own.weight_rows(grad, x, weight, computed, rows_of_bias)
        if of_weight:
            node = ctx.next_functions[1][0]
            grad_weight = own.put_grad(own.weight, own.dim, active, rows, node)
        if rows_of_bias:
            node = ctx.next_functions[2][0]
            grad_bias = own.put_grad(bias, 0, active, bias_rows, node)
        elif of_bias:
            grad_bias = grad.sum(dim=[0, *range(2, grad.dim())])
        return grad_x, grad_weight, grad_bias, None, None


def gather_channels(x: Tensor, channels: Tensor) -> Tensor:
    """Gather channels of x, of shape (batch, channels, ...), keeping its memory format."""
    last = x.movedim(1, -1)
    if last.is_contiguous() and not x.is_contiguous():
        return last.gather(-1, channels.expand(*last.shape[:-1], -1)).movedim(-1, 1)
    return x.index_select(1, channels)
