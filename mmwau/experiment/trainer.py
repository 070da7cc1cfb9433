"""Train what a suite lacks: each training in its own process and work_dir, some at a time."""

import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from mmwau.analysis.runs import SCALARS, read_run
from mmwau.files import write_whole

from .record import Record, read_record, summarise_run, write_record
from .suite import Training

STARTED, LOG = 'started.json', 'output.log'
POLL_SECONDS = 0.5
# A launcher passes the end on to its processes, which takes a moment.
SECONDS_TO_END = 20


@dataclass
class Process:
    """A training that runs.

    Args:
        training: What it trains.
        process: Its process.
        starts: How often it has been started, with this time.
        gpus: Its GPUs, where they are shared out.
        began: When this start was, as :func:`time.monotonic` tells it.
    """

    training: Training
    process: subprocess.Popen
    starts: int
    gpus: Sequence[str] = ()
    began: float = field(default_factory=time.monotonic)


class Trainer:
    """Trains what has no record yet.

    Args:
        folder: Work_dir of the suite.
        metric: Name of the metric to keep a curve of.
        jobs: Trainings at a time.
        threads: CPU threads of each process.
        gpus: Numbers of the GPUs to share out, one for each process of a training; none: trainings
            see what this process sees.
    """

    def __init__(
        self, folder: Path, metric: str, jobs: int = 1, threads: int = 1, gpus: Sequence[str] = ()
    ):
        self.folder, self.metric = folder, metric
        self.jobs, self.threads = jobs, threads
        self.gpus, self._free = gpus, list(gpus)
        self.running: list[Process] = []
        self.waiting: list[Training] = []
        self._seconds: dict[str, list[float]] = {}

    def train(
        self,
        trainings: Sequence[Training],
        on_end: Callable[[Record], None],
        on_wait: Callable[[], None],
    ) -> None:
        """Train; whatever happens, no process is left behind.

        Args:
            trainings: What to train, in this order.
            on_end: Called with the record of each training that ended, failed ones too.
            on_wait: Called twice a second.

        Raises:
            BlockingIOError: If trainings of an earlier start are still running in the folder.
            ValueError: If a training needs more GPUs than there are to share out.
        """
        most = max((one.processes for one in trainings), default=0)
        if self.gpus and most > len(self.gpus):
            raise ValueError(
                f'--gpus must name at least {most} GPUs, since a training of the suite has '
                f'{most} processes; got {" ".join(self.gpus)}'
            )
        self.waiting = list(trainings)
        with self._alone() as lock:
            try:
                while self.waiting or self.running:
                    while self._can_start():
                        self.running.append(self._start(self.waiting.pop(0), lock))
                    time.sleep(POLL_SECONDS)
                    for one in [one for one in self.running if one.process.poll() is not None]:
                        self.running.remove(one)
                        self._free += one.gpus
                        on_end(self._end(one))
                    on_wait()
            finally:
                self._end_all()

    def _end_all(self) -> None:
        """End what runs, with the workers that load its data and the processes of a launcher."""
        for one in self.running:
            os.killpg(one.process.pid, signal.SIGTERM)
        for one in self.running:
            with suppress(subprocess.TimeoutExpired):
                one.process.wait(SECONDS_TO_END)
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()

    def _can_start(self) -> bool:
        if not self.waiting or len(self.running) == self.jobs:
            return False
        return not self.gpus or self.waiting[0].processes <= len(self._free)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """A lock that trainings inherit, so that they keep it when this process is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / '.lock', 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    error.errno,
                    f'Trainings are running in {self.folder}, of this tool or left by one that was '
                    'killed. Wait for them or end them (pgrep -af tools/train.py), or name another '
                    '--work-dir',
                ) from error
            yield lock.fileno()

    def _start(self, training: Training, lock: int) -> Process:
        folder = self.folder / training.folder
        starts = check_start(training, folder) + 1
        started = dict(digest=training.digest, starts=starts)
        write_whole(json.dumps(started).encode(), folder / STARTED)
        arguments = [*training.command, '--work-dir', str(folder)]
        if (folder / 'last_checkpoint').is_file():
            arguments.append('--resume')
        env = {**os.environ, 'OMP_NUM_THREADS': str(self.threads), 'PYTHON': sys.executable}
        gpus = [self._free.pop(0) for _ in range(training.processes)] if self.gpus else []
        if gpus:
            env['CUDA_VISIBLE_DEVICES'] = ','.join(gpus)
        if training.processes > 1:
            env['PORT'] = str(_free_port())
        with open(folder / LOG, 'a') as log:
            process = subprocess.Popen(
                [sys.executable if arguments[0] == 'python' else arguments[0], *arguments[1:]],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env,
                start_new_session=True, pass_fds=[lock],
            )  # fmt: skip
        return Process(training, process, starts, gpus)

    def _end(self, one: Process) -> Record:
        """The record of a training that ended; a failed one is tried anew at the next start."""
        training, folder = one.training, self.folder / one.training.folder
        told = shlex.join(training.command)
        try:
            if one.process.returncode:
                raise RuntimeError(_last_line(folder / LOG, one.process.returncode))
            record = summarise_run(training, read_run(folder), self.metric, told, one.starts)
            write_record(record, folder)
            self._seconds.setdefault(training.setting, []).append(time.monotonic() - one.began)
        except (RuntimeError, ValueError, OSError) as error:
            record = Record(
                training.setting, training.arm, training.seed, told, training.digest,
                status='failed', error=str(error), starts=one.starts,
            )  # fmt: skip
        return record

    def fraction(self, one: Process) -> float:
        """How much of a running training is done, in [0, 1], as far as its log tells."""
        logs = sorted((self.folder / one.training.folder).glob(f'*/{SCALARS}'))
        lines = logs[-1].read_text().splitlines()[-3:] if logs else []
        loop = one.training.cfg.train_cfg
        done = 0.0
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # half written
                continue
            if 'max_epochs' in loop and 'epoch' in entry:
                done = max(done, (entry['epoch'] - 1) / loop.max_epochs)
            elif 'max_iters' in loop:
                done = max(done, entry.get('step', 0) / loop.max_iters)
        return min(done, 1.0)

    def seconds_left(self) -> float | None:
        """Time left in seconds, None while nothing tells how long a training takes."""
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


def check_start(training: Training, folder: Path) -> int:
    """How often a training was started in its work_dir before.

    Raises:
        ValueError: If what was started there had other settings, so that going on would mix the
            two.
    """
    if not (folder / STARTED).is_file():
        return 0
    started = json.loads((folder / STARTED).read_text())
    if started['digest'] != training.digest:
        raise ValueError(
            f'{folder} holds a training with other settings than {training.name} has now: the '
            'suite or its config was changed since. Remove the folder to train anew, or name '
            'another --work-dir'
        )
    return started['starts']


def find_records(
    trainings: Sequence[Training], folder: Path, published: Sequence[Record] = ()
) -> Mapping[Training, Record]:
    """The trainings that came to their end already, here or in published results.

    Args:
        trainings: All trainings of a suite.
        folder: Work_dir of the suite.
        published: Records of an earlier time; those of trainings with other settings do not count.

    Raises:
        ValueError: If a work_dir holds a training with other settings.
    """
    known = {record.digest: record for record in published if record.status != 'failed'}
    found = {}
    for training in trainings:
        place = folder / training.folder
        check_start(training, place)
        record = read_record(place) or known.get(training.digest)
        if record is not None:
            # Published results may call the same training by other names.
            found[training] = replace(record, setting=training.setting, arm=training.arm)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def _last_line(log: Path, status: int) -> str:
    lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
    end = f'ended by signal {-status}' if status < 0 else f'exit status {status}'
    return f'{end}: {lines[-1][:300] if lines else "it printed nothing"} (whole output in {log})'
