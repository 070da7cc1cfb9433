"""Files that are whole or not there."""

import os
import shutil
from pathlib import Path

UNFINISHED = '.unfinished'


def write_whole(content: bytes, path: str | Path) -> None:
    """Write a file under another name, then give it its own: a file that was there stays whole.

    Args:
        content: What to write.
        path: The place; its folder is made if need be.

    Raises:
        OSError: If it can't be written; it tells the place, the size and what to do.
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
        unfinished.unlink(missing_ok=True)
        folder = next(parent for parent in path.parents if parent.exists())
        raise OSError(
            error.errno,
            f'{error.strerror}: could not write {len(content) / 2**20:.1f} MiB to {path} '
            f'({shutil.disk_usage(folder).free / 2**20:.1f} MiB are free there). Files '
            'written before are whole. Make room or mend the folder, then go on (trainings with '
            '--resume)',
        ) from error
