"""How the scripts of mmwau write checkpoints: whole or not at all."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend

from .files import UNFINISHED, write_whole


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
        write_whole(obj, filepath)


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
