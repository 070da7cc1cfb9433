"""The processes of trainings: how they are found and ended, whoever started them."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

# In the environment of a training's processes: its work_dir, by which they are found.
MARK = 'MMWAU_EXPERIMENT'
SECONDS_TO_END = 20


def find_processes(folders: Iterable[Path]) -> list[psutil.Process]:
    """The processes that train in these folders, or below them, whoever started them."""
    places = [folder.resolve() for folder in folders]
    found = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK)
        except psutil.Error:  # it has ended, or is somebody else's
            continue
        if mark and any(Path(mark).is_relative_to(place) for place in places):
            found.append(process)
    return found


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """End processes; those that do not end by themselves in some seconds are killed."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, SECONDS_TO_END)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
