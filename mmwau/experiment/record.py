"""What is kept of a training: final values and curves, small enough to publish."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from mmengine.device import get_device

from mmwau.engine.overlap_hook import log_key
from mmwau.files.records import read_records, write_records
from mmwau.runs.metrics import is_number
from mmwau.runs.run import Run

from .suite import Named, Training

# Points of a curve where training counts iterations.
BINS = 50
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class TrainingRecord(Named):
    """The outcome of a :class:`.suite.Training`, with its names and its digest.

    Args:
        command: The command that repeats it.
        status: ``'finished'``, ``'diverged'`` (trained to the end, but the loss is no number) or
            ``'failed'``.
        error: Why it failed; ``''`` otherwise.
        starts: In how many parts it was trained: after a kill a training goes on from its last
            checkpoint, with other random augmentations than one without a break.
        iterations: Iterations that were trained.
        seconds: How long training took; 0 where it is not known. With a GPU or another accelerator
            the median time of an iteration times their number; without one the CPU time
            of the whole process, which other processes on the machine disturb less.
        values: Final values by name: metrics, ``'loss'``, ``'overlap'``, ``'path_length'``, ...;
            what is no measurement (:func:`mmwau.runs.metrics.is_measured`) is left out.
        curves: Points (iteration, value) by name: each metric, ``'loss'`` as the mean of each
            epoch, which stands at its middle, ``'overlap'``, ``'path_length'``, ...
    """

    command: str
    digest: str
    status: str
    error: str = ''
    starts: int = 1
    iterations: int = 0
    seconds: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Those that mmwau 0.1 wrote have its log keys.
        for name in ('values', 'curves'):
            renamed = {log_key(key): value for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, renamed)

    @property
    def finished(self) -> bool:
        """Whether it has final values to compare."""
        return self.status == 'finished'

    def curve(self, name: str) -> Curve:
        """The points of a curve, empty if there is none."""
        # Earlier versions kept one metric's curve, under a name that does not say which one's.
        unnamed = self.curves.get('metric', [])
        if name not in self.curves and unnamed and unnamed[-1][1] == self.values.get(name):
            return unnamed
        return self.curves.get(name, [])


def summarise_run(
    training: Training, run: Run, command: str, processor_seconds: float
) -> TrainingRecord:
    """What is kept of a training that came to its end.

    Its process took so many seconds of the processor; 0 where it is not known.
    """
    # The log leaves out the last iterations of an epoch; the overlap is measured at the end.
    last = max([*run.loss, *run.overlaps.get('overlap', {})])
    names = [*run.metrics, 'loss', 'overlap', *run.movements]
    values = {name: run.final(name) for name in names}
    curves: dict[str, Curve] = {}
    # Metrics count epochs; all curves of a record count iterations.
    per_unit = last / run.trained if run.by_epoch and run.trained else 1
    for name in run.metrics:
        curves[name] = [(at * per_unit, value) for at, value in run.curve(name).items()]
    curves |= {'loss': _binned(run), 'overlap': list(run.curve('overlap').items())}
    for name in run.movements:
        points: Curve = list(run.curve(name).items())
        # As many points as epochs, where each logged one would fill a file.
        every = max(1, len(points) // BINS)
        curves[name] = points[::-every][::-1]
    seconds = median(run.times.values()) * last if run.times else 0.0
    if get_device() == 'cpu':
        seconds = processor_seconds
    return TrainingRecord(
        *(*training.key, command, training.digest, 'diverged' if run.diverged else 'finished'),
        starts=run.starts,
        iterations=last,
        seconds=_short(seconds),
        values={name: _short(value) for name, value in values.items() if value is not None},
        curves={name: [(_short(x), _short(y)) for x, y in curve] for name, curve in curves.items()},
    )


def update_records(records: Sequence[TrainingRecord], path: Path) -> None:
    """Write records to a JSON file; others that it has stay in it.

    A training that failed does not take the place of one that came to its end. One whose setting
    or arm has another name by now takes the place of its record under the old name.

    Raises:
        OSError: If it can't be written.
        ValueError: If it can't be read.
    """
    kept = read_records(TrainingRecord, path)
    ended = {one.key for one in kept if one.status != 'failed'}
    new = [one for one in records if one.status != 'failed' or one.key not in ended]
    write_records([*new, *left_of(kept, new)], path)


def left_of(
    records: Sequence[TrainingRecord], new: Sequence[TrainingRecord]
) -> list[TrainingRecord]:
    """Records of other trainings than the new ones, whatever names these had earlier."""
    names = {one.key for one in new}
    digests = {one.digest for one in new if one.status != 'failed'}
    return [one for one in records if one.key not in names and one.digest not in digests]


def _binned(run: Run) -> Curve:
    """The training loss as means over epochs, or over some fiftieth part of the iterations."""
    bins: dict[int, list[tuple[int, float]]] = {}
    last = max(run.loss)
    for step, loss in run.loss.items():
        place = run.epochs[step] if run.by_epoch else math.ceil(step * BINS / last)
        bins.setdefault(place, []).append((step, loss))
    return [
        (fmean(step for step, _ in points), fmean(loss for _, loss in points))
        for points in bins.values()
        if all(is_number(loss) for _, loss in points)
    ]


def _short(value: float) -> float:
    """Enough digits for any table, so that files stay small."""
    return float(f'{value:.6g}')
