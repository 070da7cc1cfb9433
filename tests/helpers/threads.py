"""Says how many threads torch has in a process of its own."""

from pathlib import Path

import torch


def write_threads(recipe: object, data: Path, folder: Path, time_limit: int) -> None:
    """In place of tools/compatibility.py's ``train_in_process``."""
    (folder / 'threads.txt').write_text(str(torch.get_num_threads()))
