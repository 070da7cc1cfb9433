"""Train for long, once in a piece and once killed many times, and compare the ends bit for bit.

    python tests/soak/long_training.py --updates 20000 --kills 20

Draws the memory and the processor time of an update, with WAU and without.
"""

import argparse
import json
import multiprocessing
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import numpy as np
import torch
from long_picture import draw_points, summary
from mmengine.logging import HistoryBuffer
from tiny_training import EPOCH, train

from mmwau.files.whole import UNFINISHED

PROCESSES = multiprocessing.get_context('forkserver')
# Parts of a checkpoint of which no bit depends on how often training was killed.
SAME = ('state_dict', 'optimizer', 'param_schedulers', 'movement', 'random_states')


def train_in_a_piece(work_dir: Path, updates: int, has_wau: bool = True) -> list[dict]:
    """Train in a process of its own; what it was like at some points."""
    progress = PROCESSES.RawValue('q')
    _end(_start(work_dir, updates, progress, has_wau))
    return json.loads((work_dir / 'points.json').read_text())


def train_and_kill(
    work_dir: Path, updates: int, kills: int, seed: int
) -> Iterator[tuple[int, bool]]:
    """Train, killed at random moments.

    Yields:
        For each time that it was killed, the updates that were made, and whether it was while a
        file was written.
    """
    draw, progress = random.Random(seed), PROCESSES.RawValue('q')
    for moment in sorted(draw.sample(range(updates), kills)):
        progress.value = 0
        process = _start(work_dir, updates, progress)
        while progress.value < moment and process.is_alive():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.02))  # anywhere in an update, or between two
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f'training ended with {process.exitcode} before it was killed')
        yield progress.value, any(work_dir.glob(f'.*{UNFINISHED}'))
    _end(_start(work_dir, updates, progress))


def _start(work_dir: Path, updates: int, progress, has_wau: bool = True):
    process = PROCESSES.Process(target=train, args=(work_dir, updates, has_wau, progress))
    process.start()
    return process


def _end(process) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f'training ended with {process.exitcode}')


def differences(one: Path, other: Path) -> list[str]:
    """Names of what is not bit-equal in the last checkpoints of two work_dirs."""
    ends = [
        torch.load((work_dir / 'last_checkpoint').read_text(), weights_only=False)
        for work_dir in (one, other)
    ]
    parts = []
    for end in ends:
        hub = end['message_hub']
        logged = {
            name: buffer for name, buffer in hub['log_scalars'].items() if not name.endswith('time')
        }
        kept = {
            name: value
            for name, value in hub['runtime_info'].items()
            if name in ('iter', 'epoch') or name.startswith(('overlap', 'wau'))
        }
        parts.append(dict({name: end[name] for name in SAME}, logged=logged, kept=kept))
    return list(_differences(*parts, ''))


def _differences(one, other, name: str) -> Iterator[str]:
    if isinstance(one, HistoryBuffer):
        one, other = one.data, other.data
    if type(one) is not type(other):
        yield name
    elif isinstance(one, Mapping):
        for key in {**one, **other}:
            yield from _differences(one.get(key), other.get(key), f'{name}/{key}')
    elif isinstance(one, (list, tuple)) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f'{name}/{index}')
    else:
        same = np.array_equal if isinstance(one, np.ndarray) else torch.equal
        equal = same(one, other) if isinstance(one, (np.ndarray, torch.Tensor)) else one == other
        if not equal:
            yield name


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--updates', type=int, default=20000, help=f'a multiple of {EPOCH} (default: 20000)')
    add('--kills', type=int, default=20, help='default: 20')
    add('--seed', type=int, default=0, help='of the moments (default: 0)')
    place = Path('work_dirs/long_training')
    add('--out', type=Path, default=place, help=f'a new folder (default: {place})')
    args = parser.parse_args(arguments)
    if args.updates < EPOCH or args.updates % EPOCH:
        parser.error(f'--updates must be a multiple of {EPOCH} above 0, got {args.updates}')
    if not 0 <= args.kills <= args.updates:
        parser.error(f'--kills must be in [0, {args.updates}], got {args.kills}')
    if args.out.exists():
        parser.error(f'--out {args.out} exists: its trainings would go on')
    return args


def main() -> int:
    """Train all three; 1 where what was killed ends otherwise."""
    args = parse_args()
    PROCESSES.set_forkserver_preload(['torch', 'mmengine.runner', 'matplotlib.figure'])
    args.out.mkdir(parents=True)
    runs = {}
    for name, has_wau in (('without WAU', False), ('with WAU', True)):
        runs[name] = train_in_a_piece(args.out / name.replace(' ', '_'), args.updates, has_wau)
        print(summary(name, runs[name]), flush=True)
    draw_points(runs, args.out / 'long_training.png')
    killed = args.out / 'killed'
    for done, is_writing in train_and_kill(killed, args.updates, args.kills, args.seed):
        while_writing = ', while a file was written' if is_writing else ''
        print(f'Killed after {done} updates{while_writing}', flush=True)
    different = differences(args.out / 'with_WAU', killed)
    ending = f'other bits than one in a piece: {", ".join(different)}' if different else 'equal'
    print(f'Killed {args.kills} times, training ends {ending}. Picture: {args.out}')
    return int(bool(different))


if __name__ == '__main__':
    sys.exit(main())
