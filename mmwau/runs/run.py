"""A training that was read from its work_dir."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from .metrics import is_measured, is_number


@dataclass(frozen=True)
class Run:
    """A training, read from its work_dir.

    Curves are as logged, with what is no measurement; :meth:`final` and :meth:`curve` leave that
    out.

    Args:
        work_dir: Its folder.
        config: Its config file, that of the last start.
        settings: What was trained and how, by dotted name, without WAU and the seed.
        wau: WAU's arguments that are not the defaults; None for a run without WAU.
        seed: ``randomness.seed``; None if it was not given.
        by_epoch: Whether training counts epochs or iterations.
        length: Epochs or iterations that were planned.
        loss: Training loss by iteration, as logged.
        epochs: Epoch, from 1, by iteration, as logged.
        metrics: Validation metrics by name, each by epoch or iteration.
        validations: Epochs or iterations after which there was a validation.
        overlaps: Filter overlap, each by iteration: ``'overlap'`` that of the network,
            ``'stage_overlap/STAGE'`` that of a stage.
        movements: How far filters moved, each by iteration, in radians: ``'path_length'`` and
            ``'displacement'``; empty where a hook did not measure it.
        times: Seconds of an iteration by iteration, as logged.
        notes: Sentences on what was odd.
        starts: In how many parts it was trained: 1, or more for a run that was resumed.
    """

    work_dir: Path
    config: Path
    settings: Mapping[str, object]
    wau: Mapping[str, object] | None
    seed: int | None
    by_epoch: bool
    length: int
    loss: Mapping[int, float]
    epochs: Mapping[int, int]
    metrics: Mapping[str, Mapping[int, float]]
    validations: Sequence[int]
    overlaps: Mapping[str, Mapping[int, float]]
    movements: Mapping[str, Mapping[int, float]]
    times: Mapping[int, float]
    notes: Sequence[str]
    starts: int = 1

    @property
    def unit(self) -> str:
        """What training counts: ``'epoch'`` or ``'iteration'``."""
        return 'epoch' if self.by_epoch else 'iteration'

    @property
    def epoch_length(self) -> float | None:
        """Iterations of an epoch, None where the log has only one epoch, or iterations count."""
        first: dict[int, int] = {}
        for step, epoch in self.epochs.items():
            first.setdefault(epoch, step)
        if not self.by_epoch or len(first) < 2:
            return None
        begin, end = min(first), max(first)
        # Each epoch is logged at the same iterations of it.
        return (first[end] - first[begin]) / (end - begin)

    @property
    def trained(self) -> int:
        """Epochs or iterations that were trained to their end, as far as the log shows."""
        validated = max(self.validations, default=0)
        if not self.by_epoch:
            return max([validated, *self.epochs, *self.overlaps.get('overlap', ())])
        lines = list(self.epochs.values())
        first, last = lines[0], lines[-1]
        whole = lines.count(last) >= lines.count(first)
        if first == last:  # no other epoch to compare it with
            whole = last == self.length
        return max(validated, last if whole else last - 1)

    @property
    def finished(self) -> bool:
        """Whether it was trained as long as planned."""
        steps = list(self.epochs)
        if self.by_epoch or len(steps) < 2:
            return self.trained >= self.length
        # What is left at the end, less than the interval of logging, is not logged.
        return self.length - self.trained < steps[-1] - steps[-2]

    def final(self, name: str, at: int | None = None) -> float | None:
        """A value at the end of training, or at an earlier point.

        Args:
            name: ``'loss'``, ``'overlap'``, ``'stage_overlap/STAGE'``, ``'path_length'``,
                ``'displacement'``, or a metric.
            at: Epoch or iteration; None for the end.

        Returns:
            A metric of the last validation, or of the one at that point. The loss as the mean over
            the last whole epoch, or over the last tenth of the logged points where training counts
            iterations. The overlap as measured last. None if there is no value, or it is no
            measurement (:func:`mmwau.runs.metrics.is_measured`).
        """
        value = self.logged(name, at)
        return value if self._counts(name, value) else None

    def logged(self, name: str, at: int | None = None) -> float | None:
        """What stands in the log for :meth:`final`, be it a measurement or not."""
        if name == 'loss':
            return self._mean_loss(at)
        curve = self.overlaps.get(name) or self.movements.get(name)
        if curve:
            end = math.inf if at is None else self._iterations(at)
            measured = [value for step, value in curve.items() if step <= end]
            return measured[-1] if measured else None
        if at is None:
            at = max(self.validations, default=None)
        return None if at is None else self.metrics.get(name, {}).get(at)

    def curve(self, name: str) -> dict[int, float]:
        """The points of a curve (see :meth:`final`) that are measurements, by iteration.

        Those of a metric are by epoch where training counts these.
        """
        curves = {**self.metrics, **self.overlaps, **self.movements, 'loss': self.loss}
        points = curves.get(name, {})
        return {step: value for step, value in points.items() if self._counts(name, value)}

    def _counts(self, name: str, value: float | None) -> bool:
        return is_measured(value) if name in self.metrics else is_number(value)

    @property
    def diverged(self) -> bool:
        """Whether its loss, as logged last, is no finite number."""
        return not is_number(self.loss[max(self.loss)]) if self.loss else False

    def _mean_loss(self, at: int | None) -> float | None:
        if self.by_epoch:
            # Of a run that was stopped in its first epoch, what there is of it.
            epoch = max(1, self.trained) if at is None else at
            losses = [loss for step, loss in self.loss.items() if self.epochs[step] == epoch]
        else:
            losses = [loss for step, loss in self.loss.items() if at is None or step <= at]
            losses = losses[-max(1, round(len(losses) / 10)) :]
        if not losses:
            return None
        return fmean(losses) if all(map(is_number, losses)) else math.nan

    def _iterations(self, at: int) -> float:
        """Iterations done at a point of training."""
        if not self.by_epoch:
            return at
        return max(self.epochs) if self.epoch_length is None else at * self.epoch_length
