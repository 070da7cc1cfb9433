"""Train what a suite lacks: each training in its own process and work_dir, some at a time."""

import errno
import fcntl
import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from mmwau.files.records import read_records, write_records
from mmwau.files.whole import write_whole
from mmwau.reporting.labels import name_some
from mmwau.runs.reader import SCALARS, read_run

from .processes import MARK, end_processes, find_processes
from .record import TrainingRecord, summarise_run
from .suite import Training, digest

# In the work_dir of a training.
STARTED, LOG, RECORD = 'started.json', 'output.log', 'record.json'
POLL_SECONDS = 0.5
ERROR = re.compile(r'^\s*(\[rank\d+\]: *)?[\w.]*(Error|Exception|Interrupt)\b')


@dataclass
class Process:
    """A training that runs.

    Args:
        training: What it trains.
        process: Its process.
        starts: How often it has been started, with this time.
        log_start: Size of its log before this start.
        gpus: Its GPUs, where they are shared out.
        began: When this start was, in seconds of :func:`time.monotonic`.
    """

    training: Training
    process: subprocess.Popen
    starts: int
    log_start: int
    gpus: Sequence[str] = ()
    began: float = field(default_factory=time.monotonic)


class SuiteTrainer:
    """Trains what has no record yet.

    Args:
        folder: Work_dir of the suite.
        jobs: Trainings at a time.
        threads: CPU threads of each process.
        gpus: Numbers of the GPUs to share out, one for each process of a training; none: trainings
            see what this process sees.
    """

    def __init__(self, folder: Path, jobs: int = 1, threads: int = 1, gpus: Sequence[str] = ()):
        self.folder = folder
        self.jobs, self.threads = jobs, threads
        self.gpus, self._free = gpus, list(gpus)
        self.running: list[Process] = []
        self.waiting: list[Training] = []
        self._seconds: dict[str, list[float]] = {}

    def train(
        self,
        trainings: Sequence[Training],
        on_end: Callable[[TrainingRecord], None],
        on_wait: Callable[[], None],
    ) -> None:
        """Train in this order; whatever happens, no process is left behind.

        ``on_end`` is called with the record of each training that ended, failed ones too;
        ``on_wait`` is called twice a second.

        Raises:
            BlockingIOError: If the folder is in use, also by trainings that an earlier start left.
            ValueError: If a training needs more GPUs than there are to share out.
        """
        most = max((one.processes for one in trainings), default=0)
        if self.gpus and most > len(self.gpus):
            raise ValueError(
                f'--gpus must name at least {most} GPUs, since a training of the suite has '
                f'{most} processes; got {" ".join(self.gpus)}'
            )
        self.waiting = list(trainings)
        with self._alone():
            try:
                while self.waiting or self.running:
                    while self._can_start():
                        self.running.append(self._start(self.waiting.pop(0)))
                    time.sleep(POLL_SECONDS)
                    for one in list(self.running):
                        seconds = _poll(one.process)
                        if seconds is not None:
                            self.running.remove(one)
                            self._free += one.gpus
                            on_end(self._end(one, seconds))
                    on_wait()
            finally:
                self._end_all()

    def _end_all(self) -> None:
        """End what runs, with the workers that load its data and the processes of a launcher."""
        # A second Ctrl-C would leave some of them behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            end_processes(find_processes(self.folder / one.training.folder for one in self.running))
            for one in self.running:
                one.process.wait()
        finally:
            signal.signal(signal.SIGINT, before)

    def _can_start(self) -> bool:
        if not self.waiting or len(self.running) == self.jobs:
            return False
        return not self.gpus or self.waiting[0].processes <= len(self._free)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / '.lock', 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    error.errno,
                    f'This tool is running in {self.folder} already. Wait for it or end it, or '
                    'name another --work-dir',
                ) from error
            left = find_processes([self.folder])
            if left:
                raise BlockingIOError(
                    errno.EAGAIN,
                    f'Trainings that an earlier start left are running in {self.folder}. Wait for '
                    f'them or end them (kill {" ".join(str(one.pid) for one in left)}), or name '
                    'another --work-dir',
                )
            yield

    def _start(self, training: Training) -> Process:
        folder = self.folder / training.folder
        started = read_start(folder)
        resumes = (folder / 'last_checkpoint').is_file()
        # What somebody began by hand is gone on with, too.
        starts = started['starts'] + 1 if started else 1 + resumes
        started = dict(digest=training.digest, starts=starts)
        write_whole(json.dumps(started).encode(), folder / STARTED)
        arguments = self.command(training)
        if resumes:
            arguments.append('--resume')
        env = {**os.environ, 'OMP_NUM_THREADS': str(self.threads), 'PYTHON': sys.executable}
        gpus = [self._free.pop(0) for _ in range(training.processes)] if self.gpus else []
        if gpus:
            env['CUDA_VISIBLE_DEVICES'] = ','.join(gpus)
        if training.processes > 1:
            env['PORT'] = str(_free_port())
        env[MARK] = str(folder.resolve())
        with open(folder / LOG, 'a') as log:
            log_start = log.tell()
            process = subprocess.Popen(
                [sys.executable if arguments[0] == 'python' else arguments[0], *arguments[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        return Process(training, process, starts, log_start, gpus)

    def command(self, training: Training) -> list[str]:
        """The command that trains it, for a shell in the project's folder."""
        return [*training.command, '--work-dir', str(self.folder / training.folder)]

    def _end(self, one: Process, seconds: float) -> TrainingRecord:
        """The record of a training that ended; a failed one is tried anew at the next start."""
        training, folder = one.training, self.folder / one.training.folder
        command = shlex.join(self.command(training))
        try:
            if one.process.returncode:
                # Of several processes some may be left.
                end_processes(find_processes([folder]))
                raise RuntimeError(_reason(folder / LOG, one))
            run = read_run(folder)
            if digest(run.settings, run.wau, run.seed, training.processes) != training.digest:
                raise RuntimeError(
                    f'{training.config} was changed after the tool had read it. Remove {folder} '
                    'and start the tool again'
                )
            if one.starts > 1:
                seconds = 0.0
            record = summarise_run(training, run, command, seconds)
            write_records([record], folder / RECORD)
        # Whatever is wrong with one training, the others go on.
        except Exception as error:
            why = 'failed', str(error) or repr(error), one.starts
            return TrainingRecord(*training.key, command, training.digest, *why)
        if one.starts == 1:
            passed = time.monotonic() - one.began
            self._seconds.setdefault(training.setting, []).append(passed)
        return record

    def fraction(self, one: Process) -> float:
        """How much of a running training is done, in [0, 1], as far as its log shows."""
        loop = one.training.cfg.train_cfg
        done = 0.0
        for entry in read_scalars(self.folder / one.training.folder)[-3:]:
            if 'max_epochs' in loop and 'epoch' in entry:
                done = max(done, (entry['epoch'] - 1) / loop.max_epochs)
            elif 'max_iters' in loop:
                done = max(done, entry.get('step', 0) / loop.max_iters)
        return min(done, 1.0)

    def seconds_left(self) -> float | None:
        """Time left in seconds, None while it is not known how long a training takes."""
        estimates = {setting: fmean(known) for setting, known in self._seconds.items()}
        left = 0.0
        for one in self.running:
            done, passed = self.fraction(one), time.monotonic() - one.began
            setting = one.training.setting
            if setting not in estimates and done >= 0.1 and one.starts == 1:
                estimates[setting] = passed / done
            left += max(0.0, estimates.get(setting, 0.0) - passed)
        if not estimates:
            return None
        usual = fmean(estimates.values())
        left += sum(estimates.get(training.setting, usual) for training in self.waiting)
        return left / min(self.jobs, max(1, len(self.running) + len(self.waiting)))


def read_scalars(folder: Path) -> list[dict]:
    """What a training logged in its work_dir since its last start, but for a half written line."""
    logs = sorted(folder.glob(f'*/{SCALARS}'))
    entries = []
    for line in logs[-1].read_text().splitlines() if logs else []:
        with suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def read_start(folder: Path) -> dict | None:
    """What was started in a work_dir, None where nothing is left of it to go on with."""
    kept = (folder / 'last_checkpoint').is_file() or (folder / RECORD).is_file()
    if not kept or not (folder / STARTED).is_file():
        return None
    return json.loads((folder / STARTED).read_text())


def find_records(
    trainings: Sequence[Training], folder: Path, published: Sequence[TrainingRecord] = ()
) -> dict[Training, TrainingRecord]:
    """The trainings of a suite that came to their end already, here or in published results.

    Published records of trainings with other settings do not count.

    Raises:
        ValueError: If two trainings have the same settings, or a work_dir holds a training with
            other settings, so that going on would mix the two.
    """
    known = {record.digest: record for record in published if record.status != 'failed'}
    digests: dict[str, Training] = {}
    found, others = {}, []
    for training in trainings:
        same = digests.setdefault(training.digest, training)
        if same is not training:
            raise ValueError(
                f'{same.name} and {training.name} have the same settings: is an option misspelt?'
            )
        place = folder / training.folder
        started = read_start(place)
        if started is not None and started['digest'] != training.digest:
            others.append(str(place))
            continue
        kept = read_records(TrainingRecord, place / RECORD)
        record = kept[0] if kept else known.get(training.digest)
        if record is not None:
            # Published results may call the same training by other names.
            found[training] = replace(record, setting=training.setting, arm=training.arm)
    if others:
        raise ValueError(
            f'These hold trainings with other settings than the suite has now: '
            f'{name_some(others, 3)}. The suite or a config was changed since. Remove the '
            'folders to train again, or name another --work-dir'
        )
    return found


def _poll(process: subprocess.Popen) -> float | None:
    """Processor time in seconds of a process that has ended, None for one that runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.poll() is None:
        return None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _reason(log: Path, one: Process) -> str:
    """Why a training ended too early: the last line of its log that looks like an error."""
    with open(log, 'rb') as file:
        file.seek(one.log_start)
        lines = file.read().decode(errors='replace').splitlines()
    found = [line.strip() for line in lines if ERROR.search(line)]
    found = found or [line.strip() for line in lines if re.search('[a-z]', line)]
    status = one.process.returncode
    end = f'ended by signal {-status}' if status < 0 else f'exit status {status}'
    return f'{end}: {found[-1][:300] if found else "it printed nothing"} (whole output in {log})'
