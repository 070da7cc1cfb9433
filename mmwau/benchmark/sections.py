"""The sections of the benchmark: what each one measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from . import busy, growth
from .arms import BASELINE, STEP_ARMS, BenchmarkTrainer
from .bytes_sent import bytes_sent
from .launches import count_operations
from .memory import extra_memory
from .networks import DETECTOR, build_network
from .operations import time_convolution, time_optimizer_steps, time_selection
from .parts import time_parts
from .rounds import WARM_UP, Effort, Progress, interleave, phase_table
from .steps import threads, weight_gradient_share

OPTIMIZER_ARMS = (BASELINE, 'weight 0.5', 'state 0.5', "authors' loop")
MEMORY_ARMS = (*STEP_ARMS, 'state 0.5')
# Of what is measured, the title, the most ticks that it makes, and the measurement, which takes the
# function to call at each tick. Returns what that gives.
Watch = Callable[[str, int, Callable[[Progress], Any]], Any]


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Args:
        device: Where networks and operations run.
        networks: Names of networks whose training steps are timed.
        arms: Names of the arms in which they train, the baseline among them.
        threads: Numbers of threads with which whole steps are timed.
        effort: How many rounds of training steps are made; its fewest are made of all else.
        of_operations: Rounds where a single operation is timed.
        watch: Runs a measurement, and shows how far it is.
    """

    device: torch.device
    networks: Sequence[str]
    arms: Sequence[str]
    threads: Sequence[int]
    effort: Effort
    of_operations: int
    watch: Watch


def _convolution(bench: Bench) -> dict:
    rounds, device = bench.of_operations, str(bench.device)

    def measure(tick: Progress) -> dict:
        timed = partial(time_convolution, rounds=rounds, tick=tick, device=device)
        # The sizes of ResNet-50 at 224x224.
        return {channels: timed(channels, size=3584 // channels) for channels in (128, 256, 512)}

    return bench.watch('backward of 3x3 convolutions', 3 * 2 * (rounds + WARM_UP), measure)


def _selection(bench: Bench) -> object:
    runs, measure = 2 * (bench.of_operations + WARM_UP), partial(time_selection, 1000, 100, 900)
    title = 'selection, 100,000 filters in 1,000 layers'
    return bench.watch(title, runs, partial(measure, bench.of_operations))


def _optimizer_step(bench: Bench) -> dict:
    network = build_network(DETECTOR, bench.device)
    runs = len(OPTIMIZER_ARMS) * (bench.of_operations + WARM_UP)
    measure = partial(time_optimizer_steps, network, OPTIMIZER_ARMS, bench.of_operations)
    return bench.watch('optimizer step, R50-FPN', runs, measure)


def _memory(bench: Bench) -> dict:
    network = build_network('resnet50', bench.device)
    measure = partial(extra_memory, network, MEMORY_ARMS)
    return bench.watch('memory, ResNet-50', len(MEMORY_ARMS), measure)


def _bytes_sent(bench: Bench) -> dict:
    model = build_network('resnet50', torch.device('cpu')).model
    return bench.watch(
        'bytes sent, ResNet-50, 2 processes', 1, lambda tick: bytes_sent(model, 64, 0.5)
    )


def _networks(bench: Bench) -> dict:
    return {name: _network(name, bench) for name in bench.networks}


def _network(name: str, bench: Bench) -> dict:
    network = build_network(name, bench.device)
    effort, arms = bench.effort, bench.arms
    steps = {}
    for number in bench.threads:
        with threads(number):
            measure = partial(
                interleave, {arm: BenchmarkTrainer(arm, network).step for arm in arms}, effort
            )
            title = f'{name}, training steps, threads: {number}'
            most = len(arms) * (effort.most + WARM_UP)
            steps[str(number)] = phase_table(bench.watch(title, most, measure))
    rounds, runs = effort.rounds, effort.rounds + WARM_UP
    parts = bench.watch(
        f'{name}, parts of WAU', len(arms) * runs, partial(time_parts, network, arms, rounds)
    )
    share = bench.watch(
        f'{name}, weight gradients', runs, partial(weight_gradient_share, network, rounds)
    )
    counts = bench.watch(f'{name}, operations', len(arms), partial(count_operations, network, arms))
    found = dict(name=name, data=network.data, steps=steps, parts=parts, operations=counts)
    return dict(found, weight_gradients=share)


def _growth(bench: Bench) -> dict:
    rounds, device = bench.effort.rounds, str(bench.device)
    runs = rounds + WARM_UP
    parts: dict[str, tuple[int, Callable]] = {
        'width': (2 * len(growth.WIDTHS) * 2, growth.by_width),
        'ratio': (2 * len(growth.RATIOS) * 2, growth.by_ratio),
        'layers': (len(growth.LAYERS) * len(growth.STEPS), growth.by_layers),
    }
    return {
        part: bench.watch(f'by {part}', count * runs, partial(measure, rounds, device=device))
        for part, (count, measure) in parts.items()
    }


def _busy_machine(bench: Bench) -> dict:
    rounds = bench.effort.rounds
    runs = rounds * len(busy.BUSY) * len(busy.SPIN_COUNTS)
    measure = partial(busy.time_beside_busy_processes, rounds)
    return bench.watch('training step beside busy processes', runs, measure)


SECTIONS: dict[str, Callable[[Bench], object]] = {
    'convolution': _convolution,
    'selection': _selection,
    'optimizer step': _optimizer_step,
    'memory': _memory,
    'bytes sent': _bytes_sent,
    'networks': _networks,
    'growth': _growth,
    'busy machine': _busy_machine,
}
