"""What the weight gradients of a network take of its training steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmwau.core.narrow_convolution import CONVOLUTIONS, PATCHED
from mmwau.core.slices import Convolution
from mmwau.targets import find_layers

from .arms import BASELINE, WALL, BenchmarkTrainer, now
from .networks import Network
from .rounds import WARM_UP, Progress, Ratio, median_of


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def weight_gradient_share(network: Network, rounds: int, tick: Progress) -> Ratio:
    """Fraction of a baseline step that the weight gradients of the layers to hold take.

    The backward passes of these convolutions are made in two halves, input and weight, and those
    of the weight are timed. A rule that holds a fraction of the layers can save that fraction of
    it, and the work of the optimizer and the input gradients that nobody needs.
    """
    trainer = BenchmarkTrainer(BASELINE, network)
    seconds: list[float] = []
    for name in find_layers(trainer.model, network.targets, 'layer'):
        module = trainer.model.get_submodule(name)
        if can_be_timed(module):
            vars(module)[PATCHED] = partial(TimedConvolution.apply, module, seconds)
    shares = []
    for turn in range(WARM_UP + rounds):
        seconds.clear()
        whole = trainer.step()[WALL]
        if turn >= WARM_UP:
            shares.append(sum(seconds) / whole)
        tick()
    return median_of(shares)


def can_be_timed(module: nn.Module) -> bool:
    """Whether the backward pass of a convolution can be made in halves."""
    is_plain = type(module) in CONVOLUTIONS and not isinstance(module.padding, str)
    return is_plain and module.padding_mode == 'zeros'


class TimedConvolution(torch.autograd.Function):
    """A convolution whose backward pass times the gradient of its weight."""

    @staticmethod
    def forward(
        ctx: Any,
        module: Convolution,
        seconds: list[float],
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        """Convolve; the last three are the arguments of ``_conv_forward``."""
        ctx.save_for_backward(x, weight)
        ctx.module, ctx.seconds = module, seconds
        return type(module)._conv_forward(module, x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients; ``seconds`` gets those that the weight's took."""
        x, weight = ctx.saved_tensors
        *_, needs_x, _, needs_bias = ctx.needs_input_grad
        module = ctx.module
        no_output_padding = [0] * len(module.stride)
        geometry = module.stride, module.padding, module.dilation, False, no_output_padding

        def half(mask: list[bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
            return torch.ops.aten.convolution_backward(
                grad, x, weight, [grad.size(1)], *geometry, module.groups, mask
            )

        grad_x = half([True, False, False])[0] if needs_x else None
        start = now(grad.device)
        _, grad_weight, grad_bias = half([False, True, needs_bias])
        ctx.seconds.append(now(grad.device) - start)
        return None, None, grad_x, grad_weight, grad_bias
