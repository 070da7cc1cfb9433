"""The overlap of two trainings at the point where both are as far: as trained, or as moved.

Overlap grows from its random start as training goes on, so that a training which is behind another
overlaps less for that reason only. A difference that is gone at equal training loss, or where
filters moved as far, was one of how far training had come.
"""

from collections.abc import Sequence

import numpy as np

from .record import TrainingRecord

Point = tuple[float, float]


def at_equal_loss(record: TrainingRecord, baseline: TrainingRecord) -> tuple[float, float] | None:
    """Overlap of two finished trainings when each first had the training loss that both reached.

    The loss is a mean over an epoch; between its points the iteration is interpolated.

    Returns:
        The overlaps of both; None where a curve is missing, or where one of the two was below
        that loss already after its first epoch, so that nobody knows when it had it.
    """
    fallen = [
        [(step, -loss) for step, loss in one.curves.get('loss', ())] for one in (record, baseline)
    ]
    return _at_equal(record, baseline, fallen)


def at_equal_movement(
    record: TrainingRecord, baseline: TrainingRecord, name: str = 'path_length'
) -> tuple[float, float] | None:
    """Overlap of two trainings when their filters had moved as far; see :func:`at_equal_loss`.

    ``'path_length'`` is how far filters have gone along their path, ``'displacement'`` how far they
    are from where they started.
    """
    both = [one.curves.get(name) for one in (record, baseline)]
    return _at_equal(record, baseline, [[(0, 0.0), *curve] if curve else [] for curve in both])


def _at_equal(
    record: TrainingRecord, baseline: TrainingRecord, curves: Sequence[Sequence[Point]]
) -> tuple[float, float] | None:
    """Overlap of both where their curves, which rise, first are at what both reach."""
    overlaps = [one.curves.get('overlap', []) for one in (record, baseline)]
    if not all([*curves, *overlaps]):
        return None
    level = min(max(value for _, value in curve) for curve in curves)
    if any(curve[0][1] > level for curve in curves):
        return None
    ours, theirs = (
        interpolate(overlap, first_reach(curve, level))
        for curve, overlap in zip(curves, overlaps, strict=True)
    )
    return ours, theirs


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
