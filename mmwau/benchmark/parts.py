"""The parts of WAU timed inside of training steps: what it adds, where whole steps are too noisy.

The timers are put around functions of mmwau from outside, and only while steps are measured.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import ParamSpec, TypeVar
from unittest.mock import patch

import torch

from mmwau import skipping, wau
from mmwau.core import narrow_convolution
from mmwau.core.detached_convolution import DetachedConvolution
from mmwau.core.narrow_convolution import NarrowConvolution
from mmwau.skipping import HeldGradSkipper
from mmwau.training.updates import Updates
from mmwau.wau import WAU

from .arms import ARMS, BASELINE, WALL, BenchmarkTrainer, now
from .networks import Network
from .rounds import Progress, exactly, interleave, median_of

SELECTION, INDICES = 'selection', 'indices'
BEFORE, AFTER = 'copies before the step', 'copies after it'
GATHERS, REST = 'gathers', 'bookkeeping'
PARTS = (SELECTION, INDICES, BEFORE, AFTER, GATHERS, REST)
# Who has the function, its name there, and the part that its time belongs to. What one of them
# spends in another one counts for the other one alone.
FUNCTIONS = (
    (WAU, 'select_each', SELECTION),
    (wau, 'find_slices', INDICES),
    (skipping, 'find_slices', INDICES),
    (NarrowConvolution, 'select', INDICES),
    (wau, 'zero_grads', BEFORE),
    (narrow_convolution, 'gather_channels', GATHERS),
    (NarrowConvolution, 'put_grad', GATHERS),
    *((DetachedConvolution, name, REST) for name in ('enter', 'leave')),
    *((HeldGradSkipper, name, REST) for name in ('start', 'stop', 'flush')),
    (Updates, 'start', REST),
)
# Gives for the name of a part what surrounds it.
Watch = Callable[[str], AbstractContextManager[None]]
Inputs = ParamSpec('Inputs')
Output = TypeVar('Output')
# Those that surround the optimizer step. They are copies on both of its sides.
AROUND_STEP = ('keep_weights', 'keep_state', 'step_active_alone', 'leave_out', 'rescale_movement')


class Stopwatch:
    """Adds up the seconds of parts, each without those of the parts inside of it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inside: list[float] = []

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add the time spent inside to a part."""
        self._inside.append(0.0)
        start = now(self.device)
        try:
            yield
        finally:
            whole = now(self.device) - start
            self.seconds[part] += whole - self._inside.pop()
            if self._inside:
                self._inside[-1] += whole


def _around(
    watch: Watch, function: Callable[Inputs, Output], part: str
) -> Callable[Inputs, Output]:
    """The function, watched."""

    @functools.wraps(function)
    def watched(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        with watch(part):
            return function(*args, **kwargs)

    return watched


def _around_step(
    watch: Watch, function: Callable[Inputs, AbstractContextManager[None]]
) -> Callable[Inputs, AbstractContextManager[None]]:
    """A function that returns a context manager, whose both ends are watched."""

    @functools.wraps(function)
    @contextmanager
    def watched(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Iterator[None]:
        with ExitStack() as stack:
            with watch(BEFORE):
                stack.enter_context(function(*args, **kwargs))
            yield
            with watch(AFTER):
                stack.close()

    return watched


@contextmanager
def watched_parts(watch: Watch) -> Iterator[None]:
    """Watch the parts of WAU in what is done inside.

    Args:
        watch: Gives for the name of a part what surrounds it each time.
    """
    with ExitStack() as watches:
        for owner, name, part in FUNCTIONS:
            watches.enter_context(
                patch.object(owner, name, _around(watch, vars(owner)[name], part))
            )
        for name in AROUND_STEP:
            watches.enter_context(patch.object(wau, name, _around_step(watch, vars(wau)[name])))
        yield


@contextmanager
def timed_parts(device: torch.device) -> Iterator[dict[str, float]]:
    """Time the parts of WAU in what is done inside; gives their seconds, which add up."""
    stopwatch = Stopwatch(device)
    with watched_parts(stopwatch.time):
        yield stopwatch.seconds


def time_parts(
    network: Network, arms: Sequence[str], rounds: int, tick: Progress
) -> dict[str, dict]:
    """Time the parts of WAU in training steps of a network, beside those of the baseline.

    Returns:
        For each of the arms in which WAU takes part the median ``'seconds'`` of an update by part,
        and ``'share'``: the sum of the parts as a fraction of the baseline's step of the same
        round.
    """
    with_wau = [arm for arm in arms if ARMS[arm].options]

    def step(trainer: BenchmarkTrainer) -> dict[str, float]:
        with timed_parts(trainer.device) as seconds:
            trainer.step()
        return seconds

    runs: dict[str, Callable[[], dict[str, float]]] = {
        BASELINE: BenchmarkTrainer(BASELINE, network).step,
        **{arm: functools.partial(step, BenchmarkTrainer(arm, network)) for arm in with_wau},
    }
    found = interleave(runs, exactly(rounds), tick)
    table = {}
    for arm in with_wau:
        seconds = {part: statistics.median(times[arm][part] for times in found) for part in PARTS}
        shares = [sum(times[arm].values()) / times[BASELINE][WALL] for times in found]
        table[arm] = dict(seconds=seconds, share=median_of(shares))
    return table
