"""Means over seeds and differences paired by seed, each with its spread and interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from scipy.stats import t

Step = TypeVar('Step', int, float)


@dataclass(frozen=True)
class Summary:
    """Mean and spread of values.

    Args:
        mean: Their mean.
        std: Their sample standard deviation; None if there is one value.
        count: How many there are: runs, or pairs of runs.
        paired: Of a difference: whether runs of the same seed were paired.
    """

    mean: float
    std: float | None
    count: int
    paired: bool = True


def summarise(values: Sequence[float]) -> Summary | None:
    """Mean and spread of values; None if there is none."""
    if not values:
        return None
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def summarise_curves(curves: Sequence[Mapping[Step, float]]) -> dict[Step, Summary]:
    """Mean and spread at the points that all curves have, in order; empty if there is no curve."""
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    found = {step: summarise([curve[step] for curve in curves]) for step in steps}
    return {step: one for step, one in found.items() if one is not None}


def half_width(found: Summary) -> float | None:
    """Half the width of the 95 % interval of a mean, by Student's t; None for one value."""
    if found.std is None:
        return None
    return float(t.ppf(0.975, found.count - 1)) * found.std / math.sqrt(found.count)


def difference(
    values: Sequence[tuple[int | None, float]], baseline: Sequence[tuple[int | None, float]]
) -> Summary | None:
    """Difference of an arm to the baseline.

    Args:
        values: Seed and value of each run of the arm; a seed of None is not known.
        baseline: The same of the baseline.

    Returns:
        Mean and spread of the differences between runs of the same seed; of a seed that an arm has
        more than once the mean takes part. Where no seed is in both, the difference of the means,
        without a spread. None where one of the two has no values.
    """
    if not values or not baseline:
        return None
    ours, theirs = _by_seed(values), _by_seed(baseline)
    pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if pairs:
        return summarise(pairs)
    means = [fmean(value for _, value in side) for side in (values, baseline)]
    return Summary(means[0] - means[1], None, min(len(values), len(baseline)), paired=False)


def _by_seed(values: Sequence[tuple[int | None, float]]) -> dict[int, float]:
    seeds = {seed for seed, _ in values if seed is not None}
    return {seed: fmean(value for other, value in values if other == seed) for seed in seeds}
