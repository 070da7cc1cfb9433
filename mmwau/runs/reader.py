"""What MMEngine logged of a training, read from its work_dir."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from numbers import Real
from os import PathLike
from pathlib import Path
from statistics import fmean

from mmengine.config import Config
from mmengine.runner import Runner

from mmwau.engine.optim_wrapper import WAUMixin
from mmwau.engine.overlap_hook import MOVEMENTS, log_key
from mmwau.engine.type_names import type_name
from mmwau.engine.wau_hook import WAUHook
from mmwau.overlap import STAGE_OVERLAP
from mmwau.reporting.labels import name_some

from .metrics import is_measured, is_number

SCALARS = 'vis_data/scalars.json'
# Arguments of the Runner that make no difference to how a network is trained.
NOT_TRAINING = {
    'self', 'cfg', 'work_dir', 'resume', 'launcher', 'experiment_name', 'visualizer', 'log_level',
}  # fmt: skip
# Other variables of a config are there for these to be made from.
TRAINING = {*signature(Runner.__init__).parameters, 'auto_scale_lr'} - NOT_TRAINING
WITHOUT_WAU = {'WAUOptimWrapper': 'OptimWrapper', 'WAUAmpOptimWrapper': 'AmpOptimWrapper'}
MEASURING = ('overlap_interval', 'movement')
# Means of the validation loop that are no metrics.
TIMES = {'time', 'data_time', 'step'}


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
        return self.metrics.get(name, {}).get(at)

    def curve(self, name: str) -> dict[int, float]:
        """The points of a curve that are measurements.

        Args:
            name: See :meth:`final`.

        Returns:
            Values by iteration, those of a metric by epoch or iteration.
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
        first = {}
        for step, epoch in self.epochs.items():
            first.setdefault(epoch, step)
        begin, end = min(first), max(first)
        if begin == end:
            return max(self.epochs)
        # Each epoch is logged at the same iterations of it.
        return at * (first[end] - first[begin]) / (end - begin)


def read_run(work_dir: str | PathLike) -> Run:
    """Read a training.

    A run that was resumed has a folder for each start; from the first iteration on that a later
    one logged, what earlier ones had is lost work and left out.

    Args:
        work_dir: Work_dir of MMEngine's Runner.

    Raises:
        FileNotFoundError: If it does not exist, or has no scalars of a training or no config.
        ValueError: If a file in it can't be read.
    """
    work_dir = Path(work_dir)
    notes: list[str] = []
    starts = {}
    for path in _find_scalars(work_dir):
        entries = _read_lines(path, notes)
        # Testing leaves a folder too, and so does a start that ended before its first line.
        if any('iter' in entry for entry in entries):
            starts[path.parent / 'config.py'] = entries
    if not starts:
        raise FileNotFoundError(
            f'No training is logged in {work_dir}: no line of its {SCALARS} is of one. A run logs '
            'its first line after default_hooks.logger.interval iterations'
        )
    configs = [_read_config(path) for path in starts]
    cfg = configs[-1]
    # That of a later start may be the checkpoint that it goes on from.
    cfg['load_from'] = None if configs[0].get('resume') else configs[0].get('load_from')
    loop = cfg['train_cfg']
    by_epoch = 'max_epochs' in loop
    if not by_epoch and 'max_iters' not in loop:
        raise ValueError(f'train_cfg of {list(starts)[-1]} has neither max_epochs nor max_iters')
    settings, wau = split_settings(cfg)
    return Run(
        work_dir=work_dir,
        config=list(starts)[-1],
        settings=settings,
        wau=wau,
        seed=(cfg.get('randomness') or {}).get('seed'),
        by_epoch=by_epoch,
        length=loop['max_epochs' if by_epoch else 'max_iters'],
        **_merge(starts, by_epoch),
        notes=notes,
        starts=_count_parts(starts.values()),
    )


def _find_scalars(work_dir: Path) -> list[Path]:
    if not work_dir.is_dir():
        raise FileNotFoundError(
            f'{work_dir} {"is no folder" if work_dir.exists() else "does not exist"}. Name the '
            'work_dir of a training, as in work_dirs/faster_rcnn_r50_wau_coco'
        )
    # Their folders are named by the time of the start.
    found = sorted(work_dir.glob(f'*/{SCALARS}'))
    if found:
        return found
    message = f'No training is logged in {work_dir}: there is no <time of start>/{SCALARS} in it. '
    below = sorted({str(path.parents[2]) for path in work_dir.glob(f'*/*/{SCALARS}')})
    if below:
        message += (
            f'It holds runs; name them, for many with a pattern such as {work_dir}/*_seed?: '
            f'{name_some(below, 5)}'
        )
    elif (work_dir / SCALARS).exists():
        message += f'It is one start of a run; name the folder above: {work_dir.resolve().parent}'
    else:
        message += (
            'Name the work_dir of a training whose visualizer has the LocalVisBackend, which '
            'writes this file'
        )
    raise FileNotFoundError(message)


def _read_lines(path: Path, notes: list[str]) -> list[dict]:
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get('step'), int):
            entries.append({log_key(name): value for name, value in entry.items()})
        elif number == len(lines):
            notes.append(f'{path} ends in half a line (a killed process?), which is left out')
        else:
            raise ValueError(
                f'{path}, line {number} is not what MMEngine writes, JSON with a step: '
                f'{line[:80]!r}. Remove the line if the rest is sound'
            )
    return entries


def _read_config(path: Path) -> dict:
    if not path.exists():
        raise FileNotFoundError(
            f'There is no {path}, the config that the visualizer writes beside the scalars. It is '
            'needed to distinguish arms; a Runner that was built without cfg does not have it'
        )
    try:
        # Its own modules need not be importable here.
        cfg = Config.fromfile(path, import_custom_modules=False).to_dict()
    except Exception as error:
        raise ValueError(f'The config {path} can not be read: {error}') from error
    missing = [key for key in ('train_cfg', 'optim_wrapper') if not cfg.get(key)]
    if missing:
        raise ValueError(f'The config {path} has no {" and no ".join(missing)}: is it a training?')
    return cfg


def _merge(starts: Mapping[Path, Sequence[Mapping]], by_epoch: bool) -> dict:
    """Curves of a run from the lines of its starts, in their order."""
    training: dict[int, Mapping] = {}
    validations: dict[int, Mapping] = {}
    overlaps: dict[int, Mapping] = {}
    for config, entries in starts.items():
        begin = next(entry for entry in entries if 'iter' in entry)
        if by_epoch and 'epoch' not in begin:
            raise ValueError(
                f'{config.parent} logs training without its epoch (log_processor.by_epoch=False), '
                'while training counts epochs; such a run can not be compared'
            )
        begin_validation = begin['epoch'] if by_epoch else begin['step']
        for curve, first in (
            (training, begin['step']), (overlaps, begin['step']), (validations, begin_validation),
        ):  # fmt: skip
            for step in [step for step in curve if step >= first]:
                del curve[step]
        iteration = 0
        for entry in entries:
            step = entry['step']
            if 'iter' in entry:
                training[step], iteration = entry, step
            elif 'overlap' in entry:
                overlaps[step] = entry
            else:
                # LoggerHook's log_metric_by_epoch gives all of them the epoch 0 then.
                validations[step or iteration] = entry
    if not overlaps:  # earlier versions wrote it there
        overlaps = {step: entry for step, entry in training.items() if 'overlap' in entry}
    losses = {step: entry.get('loss', entry.get('train/loss')) for step, entry in training.items()}
    return dict(
        loss={step: loss for step, loss in losses.items() if loss is not None},
        epochs={step: entry.get('epoch', 0) for step, entry in training.items()},
        metrics=_columns(validations, lambda name: name not in TIMES),
        validations=sorted(validations),
        overlaps=_columns(
            overlaps, lambda name: name == 'overlap' or name.startswith(STAGE_OVERLAP)
        ),
        movements=_columns(training, lambda name: name in MOVEMENTS),
        times=_columns(training, lambda name: name == 'time').get('time', {}),
    )


def _count_parts(starts: Iterable[Sequence[Mapping]]) -> int:
    """In how many starts some iteration was trained that no later one trained again."""
    firsts = [next(entry['step'] for entry in lines if 'iter' in entry) for lines in starts]
    return sum(
        first < min(firsts[place + 1 :], default=math.inf) for place, first in enumerate(firsts)
    )


def _columns(lines: Mapping[int, Mapping], is_wanted) -> dict[str, dict[int, float]]:
    columns: dict[str, dict[int, float]] = {}
    for step in sorted(lines):
        for name, value in lines[step].items():
            if is_wanted(name) and isinstance(value, Real):
                columns.setdefault(name, {})[step] = value
    return columns


def split_settings(cfg: Mapping) -> tuple[dict[str, object], dict[str, object] | None]:
    """What is trained and how, and with which WAU, from a config.

    Args:
        cfg: The config as a dict; left as it is.

    Returns:
        The settings of the training by dotted name, without WAU and the seed; and WAU's arguments
        that are not the defaults, None without WAU.
    """
    parts = {name: value for name, value in cfg.items() if name in TRAINING and value is not None}
    parts['randomness'] = {
        name: value for name, value in (parts.get('randomness') or {}).items() if name != 'seed'
    }
    parts['default_hooks'] = {
        name: hook for name, hook in parts.get('default_hooks', {}).items()
        if name != 'visualization'
    }  # fmt: skip
    hooks = parts.pop('custom_hooks', None) or []
    # Of these the one only measures, and what the other one does is WAU.
    others = [hook for hook in hooks if _type(hook) not in ('WAUHook', 'OverlapHook')]
    if others:
        parts['custom_hooks'] = others
    wrapper = dict(parts['optim_wrapper'])
    kind = _type(wrapper) or 'OptimWrapper'
    wrapper['type'] = WITHOUT_WAU.get(kind, kind)
    wau = None
    if kind in WITHOUT_WAU:
        defaults = _defaults(WAUMixin)
        wau = {name: wrapper.pop(name) for name in defaults if name in wrapper}
        for hook in hooks:
            if _type(hook) == 'WAUHook':
                hook_defaults = _defaults(WAUHook)
                wau |= {name: value for name, value in hook.items() if name in hook_defaults}
                defaults |= hook_defaults
        wau = {
            name: _plain(value) for name, value in wau.items()
            if _plain(value) != _plain(defaults[name])
        }  # fmt: skip
    parts['optim_wrapper'] = wrapper
    return dict(_flatten(parts)), wau


def _type(part: Mapping) -> str | None:
    return type_name(part.get('type'))


def _defaults(owner: type) -> dict[str, object]:
    """Arguments that have a default, without those that only say what is measured."""
    parameters = signature(owner.__init__).parameters
    return {
        name: parameter.default for name, parameter in parameters.items()
        if parameter.default is not Parameter.empty and name not in MEASURING
    }  # fmt: skip


def _plain(value: object) -> object:
    """Tuples as lists, which is how most configs come back from a file."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _flatten(value: object, name: str = '') -> Iterator[tuple[str, object]]:
    """The values of nested dicts and of lists of dicts, by dotted name."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) for v in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        yield name, _plain(value)
        return
    for key, inner in value.items():
        yield from _flatten(inner, f'{name}.{key}' if name else str(key))
