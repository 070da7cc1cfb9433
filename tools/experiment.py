"""Train a matrix of configs, arms and seeds, and compare them.

    python tools/experiment.py configs/suites/demo.py

Each training is a process of its own with `tools/train.py`. Stopped or killed, the same command
goes on where it was; what is finished is not trained again. At the end come tables with the paired
gap to the baseline and its 95 % interval, as Markdown and JSON, and pictures.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import torch
from rich.console import Console
from rich.progress import TaskID, TextColumn

from mmwau.experiment.record import TrainingRecord, left_of, update_records
from mmwau.experiment.report import SuiteReport
from mmwau.experiment.suite import Suite, Training, read_suite
from mmwau.experiment.trainer import SuiteTrainer, find_records
from mmwau.files.records import read_records
from mmwau.files.whole import check_folder, write_whole
from mmwau.reporting.page import png
from mmwau.reporting.terminal import print_warnings, print_written, progress_bar, text_console
from mmwau.scripts.errors import end_on_signals, run_script

# Between two lines on a terminal that shows no bars.
SECONDS_BETWEEN_LINES = 60


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('suite', help='file that declares the trainings, as in configs/suites')
    add('--jobs', type=int, help='trainings at a time (default: 1, with --gpus as many as fit)')
    add('--threads', type=int, default=1, help='CPU threads of each process (default: 1)')
    shared = 'share out these GPUs, one for each process of a training'
    add('--gpus', nargs='+', default=[], metavar='NUMBER', help=shared)
    chosen = 'only what has all these texts in its name, "SETTING / ARM / seed N"'
    add('--only', metavar='TEXT', nargs='+', default=[], help=f'train, or list, {chosen}')
    listed = 'show the trainings with their commands, train nothing'
    add('--list', action='store_true', help=listed)
    add('--report', action='store_true', help='compare what is finished, train nothing')
    place = 'where to train (default: work_dirs/SUITE)'
    add('--work-dir', type=Path, metavar='FOLDER', help=place)
    out = (
        'for tables and pictures (default: the work_dir). Trainings whose results are there '
        'already, with the same settings, are not trained again'
    )
    add('--out', type=Path, metavar='FOLDER', help=out)
    args = parser.parse_args(arguments)
    if args.jobs is None:
        args.jobs = max(1, len(args.gpus))
    if args.list and args.report:
        parser.error('--list and --report each do one thing; give one of them')
    if args.only and args.report:
        parser.error('--only chooses what to train or list; --report compares all that is finished')
    check_gpus(parser, args.gpus)
    for name in ('jobs', 'threads'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} must be at least 1, got {getattr(args, name)}')
    return args


def check_gpus(parser: argparse.ArgumentParser, gpus: Sequence[str]) -> None:
    """End with a sentence unless these are GPUs that this process may use, each named once."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    known = visible.split(',') if visible else list(map(str, range(torch.cuda.device_count())))
    if not set(gpus) <= set(known) or len(set(gpus)) < len(gpus):
        parser.error(
            f'--gpus takes numbers of GPUs, each once, as in --gpus 0 1; got {" ".join(gpus)}, and '
            f'there are {" ".join(known) or "none"} here'
        )


class Show:
    """Shows how far the trainings are: bars in a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, trainer: SuiteTrainer, total: int):
        self.console, self.trainer = console, trainer
        left = TextColumn('{task.fields[left]}')
        self.bars = progress_bar(console, left, disable=not console.is_terminal)
        self.whole = self.bars.add_task('trainings', total=total, left='')
        self.parts: dict[str, TaskID] = {}
        self.total, self.ended, self._shown = total, 0, time.monotonic()

    def end(self, record: TrainingRecord) -> None:
        """Show that a training ended."""
        self.ended += 1
        self.bars.advance(self.whole)
        said = f'{record.status}: {record.name}' + (f'  {record.error}' if record.error else '')
        self.console.print(
            f'[{self.ended}/{self.total}] {said}{self._left()}',
            soft_wrap=True,
            style=None if record.finished else 'red',
        )

    def wait(self) -> None:
        """Show how far the running ones are."""
        running = {one.training.name: self.trainer.fraction(one) for one in self.trainer.running}
        if not self.console.is_terminal:
            if time.monotonic() - self._shown > SECONDS_BETWEEN_LINES and running:
                self._shown = time.monotonic()
                line = ', '.join(f'{name} {done:.0%}' for name, done in running.items())
                self.console.print(f'running: {line}{self._left()}', soft_wrap=True)
            return
        for name in [name for name in self.parts if name not in running]:
            self.bars.remove_task(self.parts.pop(name))
        for name, done in running.items():
            if name not in self.parts:
                self.parts[name] = self.bars.add_task(name, total=100, left='%')
            self.bars.update(self.parts[name], completed=round(100 * done))
        self.bars.update(self.whole, left=self._left().strip(', '))

    def _left(self) -> str:
        left = self.trainer.seconds_left()
        if left is None or not (self.trainer.running or self.trainer.waiting):
            return ''
        minutes = round(left / 60)
        hours = f'{minutes // 60} h {minutes % 60}' if minutes >= 60 else max(1, minutes)
        return f', about {hours} min left'


def choose(suite: Suite, only: Sequence[str]) -> list[Training]:
    """The trainings that have all these texts in their name.

    Raises:
        ValueError: If there is none.
    """
    chosen = [one for one in suite.trainings if all(text in one.name for text in only)]
    if not chosen:
        raise ValueError(
            f'--only {shlex.join(only)}: no training of {suite.name} has this in its name, such as '
            f'{suite.trainings[0].name!r}; see --list'
        )
    return chosen


def show_list(
    trainings: Sequence[Training],
    done: dict[Training, TrainingRecord],
    trainer: SuiteTrainer,
    console: Console,
) -> None:
    """Print each training with its state and command."""
    for training in trainings:
        state = done[training].status if training in done else 'to do'
        console.print(f'{state}: {training.name}', soft_wrap=True)
        console.print(f'    {shlex.join(trainer.command(training))}', soft_wrap=True)


def write_report(report: SuiteReport, out: Path, console: Console) -> None:
    """Print the tables; write the page and the pictures."""
    name, pictures = report.suite.name, {}
    settings = report.settings
    gaps = report.draw_gaps()
    if gaps is not None:
        pictures[f'{name}_gaps.png'] = gaps
    for setting in settings:
        pictures[f'{name}_{setting.number}.png'] = setting.draw_curves()
    for table in report.tables():
        console.print(table.to_terminal())
    print_warnings(console, report.warnings())
    for file, figure in pictures.items():
        write_whole(png(figure, dpi=130), out / file)
    command = shlex.join(['python', 'tools/experiment.py', *sys.argv[1:]])
    write_whole(report.to_markdown(command, list(pictures)).encode(), out / f'{name}.md')
    print_written(console, out, (f'{name}.md', f'{name}.json', *pictures))


def train_missing(
    suite: Suite,
    done: dict[Training, TrainingRecord],
    trainer: SuiteTrainer,
    only: Sequence[str],
    keep: Callable[[], None],
    console: Console,
) -> None:
    """Train what has no record; ``done`` gets the records."""
    missing = [one for one in choose(suite, only) if one not in done]
    console.print(
        f'{suite.title}: {len(suite.trainings)} trainings, {len(done)} done, '
        f'{len(missing)} to train, {trainer.jobs} at a time',
        soft_wrap=True,
    )
    by_key = {one.key: one for one in missing}
    show = Show(console, trainer, len(missing))

    def end(record: TrainingRecord) -> None:
        done[by_key[record.key]] = record
        keep()
        show.end(record)

    with show.bars:
        trainer.train(missing, end, show.wait)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, compare, report.

    Returns:
        1 where a training failed, 130 where it was stopped from the keyboard, 0 otherwise.
    """
    args = parse_args(arguments)
    console = text_console()
    suite = read_suite(args.suite)
    folder = args.work_dir or Path('work_dirs') / suite.name
    out = args.out or folder
    if not args.list:
        check_folder(out, '--out' if args.out else '--work-dir')
        if not args.report:
            check_folder(folder)
    results = out / f'{suite.name}.json'
    published = read_records(TrainingRecord, results)
    done = find_records(suite.trainings, folder, published)
    trainer = SuiteTrainer(folder, args.jobs, args.threads, args.gpus)
    if args.list:
        show_list(choose(suite, args.only), done, trainer, console)
        return 0

    def keep() -> None:
        update_records([done[one] for one in suite.trainings if one in done], results)

    end_on_signals()
    status = 0
    try:
        if not args.report:
            keep()  # raises, before anything is trained, where it can't be written
            train_missing(suite, done, trainer, args.only, keep, console)
    except KeyboardInterrupt:
        status = 130
        console.print('Stopped; the same command goes on from the last checkpoints')
    others = left_of(published, [one for one in done.values() if one.status != 'failed'])
    report = SuiteReport(suite, done, [one for one in others if one.status != 'failed'])
    if not report.settings:
        console.print('No training is finished: there is nothing to compare')
    else:
        keep()
        write_report(report, out, console)
    return status or int(any(record.status == 'failed' for record in done.values()))


if __name__ == '__main__':
    run_script(main)
