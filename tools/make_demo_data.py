"""Draw the demo's detection set: coloured shapes in COCO format."""

import argparse
from pathlib import Path

from mmwau.datasets.shapes import make_shapes
from mmwau.files.whole import check_folder
from mmwau.scripts.errors import run_script


def main() -> None:
    """Draw the set into a new folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/demo', help='folder to make')
    parser.add_argument('--seed', type=int, default=0, help='the same seed, the same images')
    args = parser.parse_args()
    check_folder(Path(args.root).parent, 'root')
    make_shapes(args.root, seed=args.seed)


if __name__ == '__main__':
    run_script(main)
