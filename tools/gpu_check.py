"""Find out with one command what WAU does on a GPU: `make gpu-check`.

Each part runs in a process of its own and ends as passed, failed, or not possible with the reason:
what a machine or an environment lacks never ends the others. Without a GPU each part is done on the
CPU in a tiny form, as far as it can be. Nothing is fetched. The exit status is 1 if a part failed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import torch

from mmwau.files.whole import check_folder
from mmwau.gpu_check.check import check
from mmwau.gpu_check.part import PARTS
from mmwau.scripts.errors import end_on_signals, run_script


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    listed = f'some of {", ".join(PARTS)} (default: all)'
    add('--parts', nargs='+', choices=list(PARTS), default=list(PARTS), metavar='NAME', help=listed)
    add('--device', choices=['cuda', 'cpu'], help='default: cuda, or cpu where there is no GPU')
    add('--minutes', type=float, default=20, help='what is not done by then is left (default: 20)')
    place = 'folder for gpu_check.json, gpu_check.txt and logs (default: work_dirs/gpu_check)'
    add('--out', type=Path, default=Path('work_dirs/gpu_check'), metavar='FOLDER', help=place)
    args = parser.parse_args(arguments)
    if not args.minutes > 0:
        parser.error(f'--minutes must be above 0, got {args.minutes}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no GPU here')
    return args


def main() -> int:
    """Do the parts.

    Returns:
        1 where a part failed, 130 where it was stopped from the keyboard, 0 otherwise.
    """
    args = parse_args()
    end_on_signals()
    check_folder(args.out, '--out')
    if args.device is None:
        args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        if args.device == 'cpu':
            print('PyTorch finds no GPU here: each part is tiny, on the CPU')
    device = torch.device(args.device)
    parts = list(dict.fromkeys(args.parts))
    try:
        return int(not check(parts, device, args.out.resolve(), args.minutes))
    except KeyboardInterrupt:
        print(f'Stopped; the report of what was done: {args.out}')
        return 130


if __name__ == '__main__':
    run_script(main)
