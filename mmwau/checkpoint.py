"""Files that are whole or not there: how the scripts of mmwau write checkpoints."""

import os
import shutil
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend

UNFINISHED = '.unfinished'


class AtomicLocalBackend(LocalBackend):
    """MMEngine's backend for this machine's disk, but a file appears when it is written whole.

    A training that is killed or runs out of disk while it saves leaves no half-written checkpoint,
    nor harms one that has the same name.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file.

        Args:
            obj: The content.
            filepath: The place; its folder is made if need be.

        Raises:
            OSError: If it can't be written; it tells the place, the size and what to do.
        """
        path = Path(filepath)
        unfinished = path.with_name(f'.{path.name}{UNFINISHED}')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(unfinished, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            folder = next(parent for parent in path.parents if parent.exists())
            raise OSError(
                error.errno,
                f'{error.strerror}: could not write {len(obj) / 2**20:.1f} MiB to {path} '
                f'({shutil.disk_usage(folder).free / 2**20:.1f} MiB are free there). Files '
                'written before are whole. Make room or mend the folder, then go on with --resume',
            ) from error


def write_whole_files() -> None:
    """Let MMEngine write to this machine's disk through :class:`AtomicLocalBackend`."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')


def remove_unfinished(work_dir: str | Path) -> None:
    """Remove what a killed training left unfinished in its work_dir.

    For the training script alone: another one may run while a training writes there.
    """
    if is_main_process():
        for unfinished in Path(work_dir).glob(f'.*{UNFINISHED}'):
            unfinished.unlink()
