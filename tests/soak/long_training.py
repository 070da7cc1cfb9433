"""Train for long, once in a piece and once killed many times, and compare the ends bit for bit.

    python tests/soak/long_training.py --updates 20000 --kills 20

A tiny network on the CPU, with dropout and random images, so that it ends otherwise where any of
the random numbers does. Draws the memory and the processor time of an update, with WAU and without.
"""

import argparse
import gc
import json
import math
import multiprocessing
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mmwau.core.openmp

import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn
from torch.utils.data import Dataset

import mmwau  # noqa: F401  (registers what the config names)
from mmwau.files.whole import UNFINISHED
from mmwau.reporting.plots import legend_above, styles, tidy
from mmwau.scripts.checkpoint import find_last, remove_unfinished
from mmwau.scripts.launch import build_runner

PROCESSES = multiprocessing.get_context('forkserver')
EPOCH = 100  # updates; each ends with a checkpoint
BATCH = 4
POINTS = 50  # of the picture
# Parts of a checkpoint of which no bit depends on how often training was killed.
SAME = ('state_dict', 'optimizer', 'param_schedulers', 'movement', 'random_states')
MIB = 2**20
LABELS = {
    'milliseconds': 'processor time of an update (ms)',
    'saving': 'of a checkpoint (ms)',
    'memory': 'memory of the process (MiB)',
}


@MODELS.register_module(force=True)  # the script may be read twice in a process
class MeanNetwork(BaseModel):
    """Learns the means of images."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 8, 3)
        )
        self.head = nn.Linear(8, 1)

    def forward(self, inputs, target, mode='tensor'):
        output = self.head(self.backbone(inputs).mean(dim=(2, 3)))[:, 0]
        return dict(loss=(output - target).square().mean()) if mode == 'loss' else output


@DATASETS.register_module(force=True)
class RandomImages(Dataset):
    """Images that are drawn anew each time, by all three kinds of random numbers."""

    def __len__(self):
        return EPOCH * BATCH

    def __getitem__(self, index):
        image = torch.randn(3, 8, 8) + random.random() + np.random.rand()
        return dict(inputs=image, target=image.mean())


class RandomStates(Hook):
    """Keeps in checkpoints what all random numbers go on from, which MMEngine does not."""

    _loaded: tuple | None = None

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['random_states'] = (
            torch.get_rng_state(),
            np.random.get_state(),
            random.getstate(),
        )

    def after_load_checkpoint(self, runner, checkpoint):
        self._loaded = checkpoint['random_states']

    def before_train_epoch(self, runner):
        if self._loaded is not None:
            of_torch, of_numpy, of_python = self._loaded
            torch.set_rng_state(of_torch)
            np.random.set_state(of_numpy)
            random.setstate(of_python)
            self._loaded = None


class Watch(Hook):
    """Tells how far training is, and measures it at some points.

    What is measured is the processor time of an update and that of what is between two epochs, the
    memory of the process, and the objects that came since the start and that Python's garbage
    collector leaves.
    """

    priority = 'LOWEST'

    def __init__(self, updates, progress):
        self.every, self.progress = math.ceil(updates / POINTS), progress
        self.points, self.process = [], psutil.Process()
        self.times, self.saving, self.ended = [], 0.0, None

    def before_train(self, runner):
        gc.freeze()  # what is there already is looked at no more

    def before_train_epoch(self, runner):
        now = time.process_time()
        if self.ended is not None:
            self.saving = now - self.ended
        self.ended = now

    def after_train_iter(self, runner, *args, **kwargs):
        self.times.append(time.process_time() - self.ended)
        done = self.progress.value = runner.iter + 1
        if done % self.every == 0:
            gc.collect()
            self.points.append(
                dict(
                    update=done,
                    milliseconds=1000 * float(np.median(self.times)),
                    saving=1000 * self.saving,
                    memory=self.process.memory_info().rss / MIB,
                    objects=len(gc.get_objects()),
                )
            )
            self.times.clear()
        self.ended = time.process_time()

    def after_train(self, runner):
        Path(runner.work_dir, 'points.json').write_text(json.dumps(self.points))


def train(work_dir: Path, updates: int, has_wau: bool, progress) -> None:
    """Train, or go on with a training that was killed."""
    torch.set_num_threads(1)
    optimizer = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.001)
    hook = dict(overlap_interval=EPOCH, movement=True)
    cfg = Config(
        dict(
            model=dict(type='MeanNetwork'),
            work_dir=str(work_dir),
            train_dataloader=dict(
                dataset=dict(type='RandomImages'),
                batch_size=BATCH,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=updates // EPOCH),
            optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer),
            param_scheduler=dict(type='CosineAnnealingLR', T_max=updates // EPOCH, by_epoch=True),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=EPOCH),
                checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=3),
            ),
            custom_hooks=[dict(type='OverlapHook', **hook)],
            randomness=dict(seed=3),
            env_cfg=dict(mp_cfg=dict(mp_start_method='forkserver')),
            log_level='ERROR',
            experiment_name=work_dir.name,
        )
    )
    if has_wau:
        cfg.optim_wrapper.type = 'WAUOptimWrapper'
        cfg.custom_hooks = [dict(type='WAUHook', **hook)]
    last = find_last(cfg)
    cfg.resume, cfg.load_from = last is not None, last
    runner = build_runner(cfg)
    runner.register_hook(RandomStates())
    runner.register_hook(Watch(updates, progress))
    remove_unfinished(work_dir)
    runner.train()


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


def draw_points(runs: Mapping[str, Sequence[Mapping]], path: Path) -> None:
    """Draw time and memory over the updates, from 0 on."""
    figure = Figure(figsize=(10, 3.4), layout='constrained')
    panels = figure.subplots(1, 3)
    for axes, (key, label) in zip(panels, LABELS.items(), strict=True):
        for name, look in styles(runs).items():
            at, values = ([point[what] for point in runs[name]] for what in ('update', key))
            axes.plot(at, values, color=look['color'], label=name, linewidth=1.8)
        axes.set_ylim(0, 1.1 * max(point[key] for points in runs.values() for point in points))
        axes.set_title(label, fontsize=10)
        axes.set_xlabel('updates')
        axes.set_xlim(left=0)
        tidy(axes)
    legend_above(figure, panels[0])
    figure.savefig(path, dpi=130)


def summary(name: str, points: Sequence[Mapping]) -> str:
    """Medians of the second tenth of a training and of the last, in a line."""
    tenth = max(1, len(points) // 10)
    told = []
    for key, label in LABELS.items():
        early, late = (
            np.median([point[key] for point in part])
            for part in (points[tenth : 2 * tenth], points[-tenth:])
        )
        told.append(f'{label}: {early:.2f}, then {late:.2f}')
    return f'{name}: {"; ".join(told)}'


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
