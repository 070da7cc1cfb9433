"""Measure arms side by side, in pairs, until the effect is larger than the noise."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from scipy.stats import binom

from .arms import BASELINE, PROCESSOR, WALL

WARM_UP = 2
# Of fewer values no two have the median between them in 95 of 100 cases.
FEWEST = 6
RATIOS = ('backward', 'optimizer step', 'selection and step', WALL, PROCESSOR)
# Rounds are repeated until these are settled.
JUDGED = (WALL, PROCESSOR)
# Called after each run, to show progress.
Progress = Callable[[], None]
Round = Mapping[str, Mapping[str, float]]


class Ratio(NamedTuple):
    """A ratio of two times of the same round.

    Attributes:
        median: Median over the rounds.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    median: float
    low: float
    high: float

    @property
    def is_settled(self) -> bool:
        """Whether the interval is narrower than the effect, the distance of the median from 1."""
        return self.high - self.low < abs(self.median - 1)


class Effort(NamedTuple):
    """How many rounds are made.

    Attributes:
        rounds: The fewest that count, at least :data:`FEWEST`.
        most: The most.
        seconds: After so many seconds no round begins but the fewest.
    """

    rounds: int
    most: int
    seconds: float = math.inf


def exactly(rounds: int) -> Effort:
    """So many rounds, whatever comes out."""
    return Effort(rounds, rounds)


def median_of(values: Sequence[float]) -> Ratio:
    """The median with its 95 % interval, from the order of the values alone.

    So many of the smallest and of the largest values are left out that the median of what they are
    drawn from lies between the others in at least 95 of 100 cases.
    """
    if len(values) < FEWEST:
        raise ValueError(
            f'values must be at least {FEWEST}, got {len(values)}: fewer have no interval of 95 %. '
            'Make more rounds'
        )
    ordered = sorted(values)
    left_out = int(binom.ppf(0.025, len(ordered), 0.5)) - 1
    # ppf is the first count whose probability reaches 2.5 %: of those below it less is left out.
    return Ratio(statistics.median(ordered), ordered[left_out], ordered[-1 - left_out])


def interleave(
    arms: Mapping[str, Callable[[], dict[str, float]]], effort: Effort, tick: Progress
) -> list[dict[str, dict[str, float]]]:
    """Run the arms in rounds, after warming up.

    In each round every arm runs once, in random order. An arm whose ratios to the baseline are
    settled, by wall-clock time and by CPU time, rests from then on. (So its interval, which
    has been looked at after each round, is a little too narrow.)

    Args:
        arms: For each arm a function that runs it once and returns seconds by phase.
        effort: How many rounds are made.
        tick: Called after each run, to show progress.

    Returns:
        The rounds: for each arm that ran the seconds by phase.
    """
    order = random.Random(0)
    for _ in range(WARM_UP):
        for arm in order.sample(list(arms), len(arms)):
            arms[arm]()
            tick()
    rounds: list[dict[str, dict[str, float]]] = []
    running, start = list(arms), time.monotonic()
    while len(rounds) < effort.rounds or (
        len(running) > 1 and len(rounds) < effort.most and time.monotonic() - start < effort.seconds
    ):
        times = {}
        for arm in order.sample(running, len(running)):
            times[arm] = arms[arm]()
            tick()
        rounds.append({arm: times[arm] for arm in running})
        if len(rounds) >= effort.rounds:
            running = [arm for arm in running if arm == BASELINE or not _rests(rounds, arm)]
    return rounds


def _rests(rounds: Sequence[Round], arm: str) -> bool:
    of_arm = [times for times in rounds if arm in times]
    judged = [phase for phase in JUDGED if phase in of_arm[0][arm]]
    return all(ratio_to_baseline(of_arm, arm, phase).is_settled for phase in judged)


def ratio_to_baseline(rounds: Sequence[Round], arm: str, phase: str) -> Ratio:
    """Median of the ratios of an arm to the baseline, each within a round in which both ran."""
    return median_of(
        [times[arm][phase] / times[BASELINE][phase] for times in rounds if arm in times]
    )


def phase_table(rounds: Sequence[Round]) -> dict[str, dict]:
    """For each arm the number of its rounds, median seconds by phase, and ratios to the baseline.

    ``'settled'`` has by phase whether the interval of the ratio is narrower than its effect.
    """
    table = {}
    for arm, phases in rounds[0].items():
        of_arm = [times[arm] for times in rounds if arm in times]
        ratios = {
            phase: ratio_to_baseline(rounds, arm, phase) for phase in RATIOS if phase in phases
        }
        table[arm] = dict(
            rounds=len(of_arm),
            seconds={phase: statistics.median(each[phase] for each in of_arm) for phase in phases},
            ratios=ratios,
            settled={phase: ratio.is_settled for phase, ratio in ratios.items()},
        )
    return table
