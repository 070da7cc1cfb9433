"""Measure arms side by side: interleaved, repeated, as ratios to the baseline."""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from mmwau import WAU, find_layers
from mmwau.core.slices import Layer
from mmwau.skipping import HeldGradSkipper, why_not

from .arms import SGD_OPTIONS, Trainer, build_wrapper
from .networks import Network

WARM_UP = 2
RATIOS = ('backward', 'optimizer step', 'selection and step', 'training step')
Progress = Callable[[], None]


class Ratio(NamedTuple):
    """A ratio to the baseline of the same round.

    Attributes:
        median: Median over the rounds.
        low: First quartile.
        high: Third quartile.
    """

    median: float
    low: float
    high: float


def interleave(
    arms: Mapping[str, Callable[[], dict[str, float]]], rounds: int, tick: Progress
) -> dict[str, list[dict[str, float]]]:
    """Run every arm once in each round, in random order, after warming up.

    Args:
        arms: For each arm a function that runs it once and returns seconds by phase.
        rounds: Number of rounds that count, at least 2.
        tick: Called after each run, to show progress.

    Returns:
        For each arm the seconds by phase, one dict for each round.
    """
    order = random.Random(0)
    times = {arm: [] for arm in arms}
    for turn in range(WARM_UP + rounds):
        for arm in order.sample(list(arms), len(arms)):
            seconds = arms[arm]()
            if turn >= WARM_UP:
                times[arm].append(seconds)
            tick()
    return times


def ratio_to(baseline: list[float], other: list[float]) -> Ratio:
    """Median and quartiles of the ratios of two arms, round by round."""
    ratios = [b / a for a, b in zip(baseline, other, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
    return Ratio(median, low, high)


def phase_table(times: Mapping[str, list[dict[str, float]]]) -> dict[str, dict]:
    """For each arm the median seconds of each phase, and ratios to the baseline."""
    table = {}
    for arm, rounds in times.items():
        seconds = {phase: statistics.median(turn[phase] for turn in rounds) for phase in rounds[0]}
        ratios = {
            phase: ratio_to([r[phase] for r in times['baseline']], [r[phase] for r in rounds])
            for phase in RATIOS
            if phase in seconds
        }
        table[arm] = dict(seconds=seconds, ratios=ratios)
    return table


def time_training(
    network: Network, arms: Sequence[str], ratio: float, axis: str, rounds: int, tick: Progress
) -> dict[str, dict]:
    """Time whole training steps of a network in each arm; see :func:`phase_table`."""
    trainers = {arm: Trainer(arm, network, ratio, axis).step for arm in arms}
    return phase_table(interleave(trainers, rounds, tick))


def held_gradient_share(network: Network, ratio: float, rounds: int = 3) -> float:
    """Fraction of a baseline training step that the weight gradients of held slices take.

    It bounds what skipping can save. The backward passes of the convolutions that can skip are
    made in two halves, input and weight, and those of the weight are timed.

    Args:
        network: The network.
        ratio: Fraction of slices that is active.
        rounds: Training steps that count.
    """
    trainer = Trainer('baseline', network, ratio)
    layers = find_layers(trainer.model, network.targets)
    modules = [trainer.model.get_submodule(name) for name in layers]
    seconds = []
    for module in modules:
        if not why_not(module):
            module._conv_forward = _TimedConvolution(module, seconds)
    shares = []
    for turn in range(WARM_UP + rounds):
        seconds.clear()
        whole = trainer.step()['training step']
        if turn >= WARM_UP:
            shares.append(sum(seconds) / whole)
    return (1 - ratio) * statistics.median(shares)


class _TimedConvolution:
    """A convolution whose backward pass times the gradient of its weight."""

    def __init__(self, module: nn.Module, seconds: list[float]):
        self.module, self.seconds = module, seconds

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _Timed.apply(x, weight, bias, self.module, self.seconds)


class _Timed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, module, seconds):
        ctx.save_for_backward(x, weight)
        ctx.module, ctx.seconds = module, seconds
        return type(module)._conv_forward(module, x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        needs_x, _, needs_bias, *_ = ctx.needs_input_grad

        def half(mask):
            module = ctx.module
            return torch.ops.aten.convolution_backward(
                grad, x, weight, [grad.size(1)], module.stride, module.padding, module.dilation,
                False, [0, 0], 1, mask,
            )  # fmt: skip

        grad_x = half([True, False, False])[0] if needs_x else None
        start = _now(grad)
        _, grad_weight, grad_bias = half([False, True, needs_bias])
        ctx.seconds.append(_now(grad) - start)
        return grad_x, grad_weight, grad_bias, None, None


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()


def time_convolution(
    channels: int, rounds: int, tick: Progress, *, kernel: int = 3, ratio: float = 0.5,
    axis: str = 'out', size: int = 20, batch: int = 8, device: str = 'cpu',
) -> Ratio:  # fmt: skip
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
        start = _now(x)
        y.backward(grad)
        seconds = _now(x) - start
        skipper.stop()
        skipper.grads.clear()
        x.grad = conv.weight.grad = None
        return dict(backward=seconds)

    times = interleave(
        {'baseline': lambda: backward(False), 'skipping': lambda: backward(True)}, rounds, tick
    )
    return phase_table(times)['skipping']['ratios']['backward']


def time_optimizer_steps(
    network: Network, arms: Sequence[str], ratio: float, rounds: int, tick: Progress
) -> dict[str, dict]:
    """Time only the optimizer steps, over given gradients, in each arm.

    Args:
        network: The network, whose model all arms share.
        arms: Names of the arms, of those that skip nothing.
        ratio: Fraction of slices that is active.
        rounds: Rounds that count.
        tick: Called after each step, to show progress.

    Returns:
        See :func:`phase_table`; the phases are ``'selection'``, ``'optimizer step'`` and
        ``'selection and step'``.
    """
    model = network.model
    grads = {param: torch.randn_like(param) for param in model.parameters() if param.requires_grad}

    def stepping(arm: str) -> Callable[[], dict[str, float]]:
        wrapper = build_wrapper(arm, model, network.targets, ratio, 'out')
        device = next(iter(grads))

        def step() -> dict[str, float]:
            for param, grad in grads.items():
                param.grad = grad
            start = _now(device)
            with wrapper.optim_context(model):
                selected = _now(device)
            wrapper._inner_count += 1
            wrapper.step()
            end = _now(device)
            return {
                'selection': selected - start,
                'optimizer step': end - selected,
                'selection and step': end - start,
            }

        return step

    table = phase_table(interleave({arm: stepping(arm) for arm in arms}, rounds, tick))
    for param in grads:
        param.grad = None
    return table


def time_selection(
    num_layers: int, num_filters: int, fan: int, rounds: int, tick: Progress
) -> Ratio:
    """Time a selection over many layers as a fraction of a plain SGD step over their weights.

    Args:
        num_layers: Number of layers.
        num_filters: Number of filters of each of them.
        fan: Weights of each filter.
        rounds: Rounds that count.
        tick: Called after each run, to show progress.
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

    def timed(run: Callable[[], object]) -> Callable[[], dict[str, float]]:
        def run_once() -> dict[str, float]:
            start = time.perf_counter()
            run()
            return {'optimizer step': time.perf_counter() - start}

        return run_once

    arms = {
        'baseline': timed(optimizer.step),
        'selection': timed(lambda: WAU().select(layers, next(updates))),
    }
    return phase_table(interleave(arms, rounds, tick))['selection']['ratios']['optimizer step']


def extra_memory(
    network: Network, arms: Sequence[str], ratio: float
) -> dict[str, dict[str, float]]:
    """Measure the peak of memory in the optimizer step, and in the whole training step.

    Args:
        network: The network.
        arms: Names of the arms; ``'baseline'`` is one of them.
        ratio: Fraction of slices that is active.

    Returns:
        For each arm, by ``'optimizer step'`` and ``'training step'``, by how much its peak is
        above that of the baseline, in multiples of the held slices' weights.
    """
    layers = find_layers(network.model, network.targets).values()
    weights = [layer.tensors[0][0] for layer in layers]
    held = (1 - ratio) * sum(weight.numel() * weight.element_size() for weight in weights)
    peaks = {arm: _peak_memory(Trainer(arm, network, ratio)) for arm in arms}
    return {
        arm: {phase: (peak - peaks['baseline'][phase]) / held for phase, peak in of_arm.items()}
        for arm, of_arm in peaks.items()
    }


def _peak_memory(trainer: Trainer) -> dict[str, float]:
    """Bytes at the peak of the optimizer step and of the whole step, above those before it."""
    for _ in range(WARM_UP):
        trainer.step()
    wrapper, step = trainer.wrapper, trainer.wrapper.step

    def recorded_step() -> None:
        with record_function('WAU optimizer step'):
            step()

    wrapper.step = recorded_step
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        with wrapper.optim_context(trainer.model):
            loss = trainer.loss(trainer.model)
        wrapper.update_params(loss)
        del loss
    del wrapper.step
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'trace.json'
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    levels = [
        (event['ts'], event['args']['Total Allocated'])
        for event in events
        if event.get('name') == '[memory]'
    ]
    (step,) = [
        event
        for event in events
        if event.get('name') == 'WAU optimizer step' and event.get('cat') == 'user_annotation'
    ]
    before = min(levels)[1]
    return {
        'optimizer step': max(level for time, level in levels if time >= step['ts']) - before,
        'training step': max(level for _, level in levels) - before,
    }
