"""Tell what is wrong with the files and folders that a config names."""

import os
import zipfile
from pathlib import Path

import torch


def check_work_dir(work_dir: str) -> None:
    """Check that logs and checkpoints can be written.

    Raises:
        NotADirectoryError: If the work_dir, or a folder above it, is a file.
        PermissionError: If it can't be written to.
    """
    path = Path(work_dir)
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f'work_dir {path}: {existing} is a file. Name another --work-dir')
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f'work_dir {path}: {existing} can not be written to. Name another --work-dir'
        )


def check_checkpoint(path: str | None, resume: bool = False) -> None:
    """Check that a checkpoint on this machine exists and can be read, without reading all of it.

    Args:
        path: The checkpoint, or None for none. Addresses (``https://...``) are left alone.
        resume: Whether training is to go on from it, for which it needs more than weights.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If it is truncated, no checkpoint, or has too little to resume from.
    """
    if path is None or '://' in path:
        return
    if not Path(path).is_file():
        raise FileNotFoundError(
            f'The checkpoint {path} does not exist. Checkpoints beside it: '
            f'{checkpoints_in(Path(path).parent)}'
        )
    try:
        # Memory-mapped, where the file's form allows it, tensors are not read.
        options = dict(mmap=True) if zipfile.is_zipfile(path) else {}
        checkpoint = torch.load(path, map_location='cpu', weights_only=False, **options)
    except Exception as error:
        raise ValueError(
            f'The checkpoint {path} can not be read; it is truncated or is no checkpoint '
            f'({type(error).__name__}: {error}). Name another one'
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'The checkpoint {path} holds a {type(checkpoint).__name__}, not a dict')
    missing = [key for key in ('state_dict', 'meta') if key not in checkpoint]
    if resume and missing:
        raise ValueError(
            f'Training can not be resumed from {path}, which has no {", ".join(missing)}. To start '
            'a new training from its weights, use --cfg-options load_from=... instead'
        )


def checkpoints_in(folder: str | Path) -> str:
    """Names of the checkpoints in a folder, for messages."""
    return ', '.join(sorted(path.name for path in Path(folder).glob('*.pth'))) or 'none'
