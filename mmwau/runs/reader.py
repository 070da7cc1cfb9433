"""What MMEngine logged of a training, read from its work_dir."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

from mmengine.config import Config

from mmwau.engine.overlap_hook import MOVEMENTS, log_key
from mmwau.overlap import STAGE_OVERLAP
from mmwau.reporting.labels import name_some

from .run import Run
from .settings import differences, split_settings

SCALARS = 'vis_data/scalars.json'
# Means of the validation loop that are no metrics.
TIMES = {'time', 'data_time', 'step'}


def read_run(work_dir: str | PathLike) -> Run:
    """Read a training from the work_dir of MMEngine's Runner.

    A run that was resumed has a folder for each start; from the first iteration on that a later
    one logged, what earlier ones had is lost work and left out.

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
    begun = [each for each in configs if not each.get('resume')]
    load_from = begun[-1].get('load_from') if begun else None
    for each in configs:
        # That of a resumed start may be the checkpoint that it goes on from.
        each['load_from'] = load_from
    cfg = configs[-1]
    loop = cfg['train_cfg']
    by_epoch = 'max_epochs' in loop
    if not by_epoch and 'max_iters' not in loop:
        raise ValueError(f'train_cfg of {list(starts)[-1]} has neither max_epochs nor max_iters')
    settings, wau = split_settings(cfg)
    parts = _parts(list(starts.values()))
    for place in parts[:-1]:
        changed = differences(_all_settings(configs[place]), _all_settings(cfg))
        if changed:
            notes.append(
                f'{list(starts)[place].parents[1]}, a part of the training, had other settings '
                f'than the last start, under which the run counts: {name_some(changed, 6)}'
            )
    return Run(
        work_dir=work_dir,
        config=list(starts)[-1],
        settings=settings,
        wau=wau,
        seed=_seed(cfg),
        by_epoch=by_epoch,
        length=loop['max_epochs' if by_epoch else 'max_iters'],
        **_merge(starts, [bool(each.get('resume')) for each in configs], by_epoch),
        notes=notes,
        starts=len(parts),
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


def _merge(
    starts: Mapping[Path, Sequence[Mapping]], resumed: Sequence[bool], by_epoch: bool
) -> dict:
    """Curves of a run from the lines of its starts, in their order, some of them resumed."""
    training: dict[int, Mapping] = {}
    validations: dict[int, Mapping] = {}
    overlaps: dict[int, Mapping] = {}
    for (config, entries), is_resumed in zip(starts.items(), resumed, strict=True):
        begin = next(entry for entry in entries if 'iter' in entry)
        if by_epoch and 'epoch' not in begin:
            raise ValueError(
                f'{config.parent} logs training without its epoch (log_processor.by_epoch=False), '
                'while training counts epochs; such a run can not be compared'
            )
        for curve in (training, overlaps, validations):
            first = begin['epoch' if by_epoch and curve is validations else 'step']
            for step in [step for step in curve if step >= first]:
                del curve[step]
        if not training and not is_resumed:  # begun anew: what was logged before its first line too
            overlaps.clear()
            validations.clear()
        iteration = epoch = 0
        for entry in entries:
            step = entry['step']
            if 'iter' in entry:
                training[step], iteration, epoch = entry, step, entry.get('epoch', 0)
            elif 'overlap' in entry:
                overlaps[step] = entry
            else:
                # LoggerHook's log_metric_by_epoch decides whether the step is an epoch or an
                # iteration. Where training counts iterations, all have the epoch 0. Hooks may log
                # values of their own beside the metrics.
                at = epoch if by_epoch else step or iteration
                validations[at] = {**validations.get(at, {}), **entry}
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


def _parts(starts: Sequence[Sequence[Mapping]]) -> list[int]:
    """Places of the starts that trained some iteration which no later one trained again."""
    firsts = [next(entry['step'] for entry in lines if 'iter' in entry) for lines in starts]
    return [
        place
        for place, first in enumerate(firsts)
        if first < min(firsts[place + 1 :], default=math.inf)
    ]


def _all_settings(cfg: Mapping) -> dict[str, object]:
    """All that arms and runs of an arm differ in, by dotted name."""
    settings, wau = split_settings(cfg)
    return {**settings, 'randomness.seed': _seed(cfg), 'WAU': wau}


def _seed(cfg: Mapping) -> int | None:
    return (cfg.get('randomness') or {}).get('seed')


def _columns(
    lines: Mapping[int, Mapping], is_wanted: Callable[[str], bool]
) -> dict[str, dict[int, float]]:
    columns: dict[str, dict[int, float]] = {}
    for step in sorted(lines):
        for name, value in lines[step].items():
            if is_wanted(name) and isinstance(value, (int, float)):
                columns.setdefault(name, {})[step] = value
    return columns
