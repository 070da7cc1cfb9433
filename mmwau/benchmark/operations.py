"""Single operations: the backward pass of a convolution, an optimizer step, a selection."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmwau import WAU, find_layers
from mmwau.core.slices import Layer
from mmwau.skipping import HeldGradSkipper

from .arms import BASELINE, SGD_OPTIONS, build_wrapper, now
from .networks import Network
from .rounds import Progress, Ratio, exactly, interleave, phase_table, ratio_to_baseline


def time_convolution(
    channels: int,
    rounds: int,
    tick: Progress,
    *,
    kernel: int = 3,
    ratio: float = 0.5,
    axis: str = 'out',
    size: int = 20,
    batch: int = 8,
    device: str = 'cpu',
) -> Ratio:
    """Time the backward pass of one convolution with skipping, as a ratio to that without it."""
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False).to(device)
    x = torch.randn(batch, channels, size, size, device=device, requires_grad=True)
    grad = torch.randn(batch, channels, size, size, device=device)
    layers = find_layers(conv, axis=axis)
    skipper = HeldGradSkipper(conv, layers, full_grads=False)
    updates = iter(range(10**9))

    def backward(skips: bool) -> dict[str, float]:
        if skips:
            skipper.start(WAU(ratio).select(layers.values(), next(updates)))
        y = conv(x)
        start = now(x.device)
        y.backward(grad)
        seconds = now(x.device) - start
        skipper.stop()
        skipper.grads.clear()
        x.grad = conv.weight.grad = None
        return dict(backward=seconds)

    arms = {BASELINE: lambda: backward(False), 'skipping': lambda: backward(True)}
    return ratio_to_baseline(interleave(arms, exactly(rounds), tick), 'skipping', 'backward')


def time_optimizer_steps(
    network: Network, arms: Sequence[str], rounds: int, tick: Progress
) -> dict[str, dict]:
    """Time only the optimizer steps, over given gradients, in arms that skip nothing.

    Returns:
        See :func:`.rounds.phase_table`; the phases are ``'selection'``, ``'optimizer step'`` and
        ``'selection and step'``.
    """
    model = network.model
    grads = {param: torch.randn_like(param) for param in model.parameters() if param.requires_grad}
    device = next(iter(grads)).device

    def step(wrapper: OptimWrapper) -> dict[str, float]:
        for param, grad in grads.items():
            param.grad = grad
        start = now(device)
        with wrapper.optim_context(model):
            selected = now(device)
        wrapper.step()
        end = now(device)
        parts = {'selection': selected - start, 'optimizer step': end - selected}
        return {**parts, 'selection and step': end - start}

    # All share the model.
    runs = {arm: partial(step, build_wrapper(arm, model, network)) for arm in arms}
    table = phase_table(interleave(runs, exactly(rounds), tick))
    model.zero_grad()
    return table


def time_selection(
    num_layers: int, num_filters: int, fan: int, rounds: int, tick: Progress
) -> Ratio:
    """Time a selection over many layers as a fraction of a plain SGD step over their weights.

    Each layer has ``num_filters`` filters of ``fan`` weights.
    """
    weights = [nn.Parameter(torch.randn(num_filters, fan)) for _ in range(num_layers)]
    layers = [
        Layer(f'layer{place}.conv.weight', num_filters, ((weight, 0),))
        for place, weight in enumerate(weights)
    ]
    optimizer = torch.optim.SGD(weights, **SGD_OPTIONS)
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-3)
    updates = iter(range(10**9))

    def timed(run: Callable[[], object]) -> dict[str, float]:
        start = time.perf_counter()
        run()
        return {'seconds': time.perf_counter() - start}

    arms = {
        BASELINE: partial(timed, optimizer.step),
        'selection': partial(timed, lambda: WAU().select(layers, next(updates))),
    }
    return ratio_to_baseline(interleave(arms, exactly(rounds), tick), 'selection', 'seconds')
