"""Files and folders that are whole or not there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

UNFINISHED = '.unfinished'


def check_folder(folder: str | Path, option: str = '--work-dir') -> None:
    """Check that files can be written to a folder, which need not exist yet.

    Args:
        folder: The folder.
        option: The option that names it, for messages.

    Raises:
        NotADirectoryError: If it, or a folder above it, is a file.
        PermissionError: If it can't be written to.
    """
    path = Path(folder)
    existing = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise NotADirectoryError(f'{option} {path}: {existing} is a file. Name another {option}')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f'{option} {path}: {existing} can not be written to. Name another {option}'
        )


def check_file(path: str | Path, option: str) -> None:
    """Check that a file can be written, whose folder need not exist yet.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Raises:
        IsADirectoryError: If it is a folder.
        NotADirectoryError: If a folder above it is a file.
        PermissionError: If its folder can't be written to.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f'{option} {path} is a folder. Name a file')
    check_folder(Path(path).parent, option)


def write_whole(content: bytes, path: str | Path) -> None:
    """Write a file under another name, then give it its own: a file that was there stays whole.

    Args:
        content: What to write.
        path: The place; its folder is made if need be.

    Raises:
        OSError: If it can't be written; the message has the place, the size and what to do.
    """
    path = Path(path)
    unfinished = path.with_name(f'.{path.name}{UNFINISHED}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):  # where a part of the path is a file, nothing can be removed
            unfinished.unlink()
        folder = next(parent for parent in path.parents if parent.exists())
        raise OSError(
            error.errno,
            f'{error.strerror}: could not write {len(content) / 2**20:.1f} MiB to {path} '
            f'({shutil.disk_usage(folder).free / 2**20:.1f} MiB are free there). Files '
            'written before are whole. Free some space or repair the folder, then go on (trainings '
            'with --resume)',
        ) from error


def check_new(path: str | Path) -> None:
    """Check that a folder can be made at a place: nothing is there, or an empty folder.

    Raises:
        FileExistsError: If there is something.
    """
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise FileExistsError(
            f'{path} exists already and is not an empty folder; remove it or name another one'
        )


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder, which gets its name when the context ends, or goes if it fails.

    Args:
        path: The place, at which there is nothing or an empty folder, or a link to one; its parent
            is made if need be.

    Raises:
        FileExistsError: If there is something else.
    """
    check_new(path)
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=f'.{path.name}-', dir=path.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        with suppress(FileNotFoundError):
            path.rmdir()  # on Windows an empty folder can't be replaced
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
