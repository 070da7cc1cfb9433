"""What counts as a measurement, and which of a validation's metrics is looked at."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import TypeGuard

KNOWN_METRICS = ('coco/bbox_mAP', 'coco/segm_mAP', 'pascal_voc/mAP', 'accuracy/top1')
# What COCO's evaluation gives for a metric where the data have nothing to count, no large objects
# say. No metric that we know has it as a value.
NOTHING_TO_COUNT = -1


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; the loss of a training that diverged is none."""
    return isinstance(value, Real) and math.isfinite(value)


def is_measured(value: object) -> TypeGuard[float]:
    """Whether the value of a metric is a measurement: a finite number other than COCO's -1."""
    return is_number(value) and bool(value != NOTHING_TO_COUNT)


def why_left_out(value: float | None) -> str:
    """Why a value that is no measurement is left out, such as ``'nan'``; JSON has None for that."""
    if value == NOTHING_TO_COUNT:
        return f"{value:g}, COCO's mark for nothing to count"
    return 'nan' if value is None else f'{value}'


def choose_metric(metrics: Mapping[str, float], asked: str | None = None) -> str:
    """The metric to show, of those of the whole network, of which some may be no measurement.

    It is what was asked for, or the first known one that is a measurement, or else the first one.

    Raises:
        ValueError: If there is no such metric, or it is no measurement; it lists those that are.
    """
    if not metrics:
        raise ValueError(
            'The evaluation of the whole network gave no metric: it detects nothing, or '
            'test_evaluator does not evaluate (format_only). Name another checkpoint or config'
        )
    measured = [name for name, value in metrics.items() if is_measured(value)]
    exist = f'Metrics that exist: {", ".join(measured) or "none"}'
    if asked is None:
        if not measured:
            why = (f'{name} ({why_left_out(value)})' for name, value in metrics.items())
            raise ValueError(
                f'No metric of the whole network is a measurement: {", ".join(why)}. Name another '
                'checkpoint or config'
            )
        known = [name for name in KNOWN_METRICS if name in measured]
        return known[0] if known else measured[0]
    if asked not in metrics:
        raise ValueError(f'--metric {asked} is unknown. {exist}')
    if asked not in measured:
        raise ValueError(
            f'--metric {asked} is no measurement: it is {why_left_out(metrics[asked])}. {exist}'
        )
    return asked
