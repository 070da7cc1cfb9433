"""Do one part of the check, and leave what came out in its folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import torch

from mmwau.files.json_text import to_json
from mmwau.files.whole import write_whole

from .part import PARTS, RESULT, Place, do_part


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name', choices=PARTS)
    parser.add_argument('device', type=torch.device)
    parser.add_argument('folder', type=Path)
    args = parser.parse_args(arguments)
    result = do_part(args.name, Place(args.device, args.folder))
    write_whole(to_json(result).encode(), args.folder / RESULT)


if __name__ == '__main__':
    main()
