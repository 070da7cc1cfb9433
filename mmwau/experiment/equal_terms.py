"""The overlap of two trainings at the point where both are as far: as trained, or as moved.

Overlap grows from its random start as training goes on, so that a training which is behind another
overlaps less for that reason alone. At equal training loss, or when filters moved as far, what is
left of a difference is not explained by being behind.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .record import Record

Point = tuple[float, float]


def at_equal_loss(record: Record, baseline: Record) -> tuple[float, float] | None:
    """Overlap of two trainings when each first had the training loss that both reached.

    The loss is a mean over an epoch; between its points the iteration is interpolated.

    Args:
        record: A training that finished.
        baseline: The one to compare it with.

    Returns:
        The overlaps of both; None where a curve is missing.
    """
    return _at_equal(record, baseline, 'loss', lambda curve: min(value for _, value in curve), -1)


def at_equal_movement(record: Record, baseline: Record) -> tuple[float, float] | None:
    """Overlap of two trainings when their filters had moved as far; see :func:`at_equal_loss`."""
    return _at_equal(record, baseline, 'movement', lambda curve: curve[-1][1], 1)


def _at_equal(
    record: Record,
    baseline: Record,
    name: str,
    reached: Callable[[Sequence[Point]], float],
    sign: int,
) -> tuple[float, float] | None:
    both = (record, baseline)
    if not all(one.curves.get(name) and one.curves.get('overlap') for one in both):
        return None
    level = min(sign * reached(one.curves[name]) for one in both)
    overlaps = []
    for one in both:
        curve = [(step, sign * value) for step, value in one.curves[name]]
        overlaps.append(interpolate(one.curves['overlap'], first_reach(curve, level)))
    return overlaps[0], overlaps[1]


def first_reach(curve: Sequence[Point], level: float) -> float:
    """Iteration at which a curve first is at a level or above, between points by a line.

    Args:
        curve: Points (iteration, value); one is at the level or above.
        level: The level.
    """
    before = None
    for step, value in curve:
        if value >= level:
            if before is None:
                return step
            share = (level - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0])
        before = (step, value)
    raise ValueError(f'level must be at most {max(value for _, value in curve)}, got {level}')


def interpolate(curve: Sequence[Point], step: float) -> float:
    """Value of a curve at an iteration, between points by a line."""
    steps, values = zip(*curve, strict=True)
    return float(np.interp(step, steps, values))
