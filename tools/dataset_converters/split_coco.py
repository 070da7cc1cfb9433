"""Split the images of a COCO annotation file at random into parts, each a file beside it.

    python tools/dataset_converters/split_coco.py data/bccd/annotations/train.json fit=120 tune=40

writes ``fit.json`` and ``tune.json``: different images of the same folder, with their boxes. With
one part, such as ``few=24``, it takes a few images. The same seed gives the same parts.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

from mmwau.datasets.coco_file import load_coco, read_coco
from mmwau.files.whole import write_whole
from mmwau.scripts.errors import run_script


def parse_part(text: str) -> tuple[str, int]:
    """Name and number of images of a part, given as ``NAME=IMAGES``."""
    name, _, count = text.partition('=')
    if not name or Path(name).name != name or not count.isdecimal() or int(count) < 1:
        raise argparse.ArgumentTypeError(f'a part is NAME=IMAGES, such as few=24, got {text!r}')
    return name, int(count)


def split(content: Mapping, parts: Sequence[tuple[str, int]], seed: int) -> dict[str, dict]:
    """Split the content of a COCO file into parts, by name with so many images.

    Images and annotations keep their order; whatever else the content has, each part has too.

    Raises:
        ValueError: If there are not as many images.
    """
    # Of an image that is listed twice both would be drawn, in two parts perhaps.
    images = list({image['id']: image for image in content['images']}.values())
    wanted = sum(count for _, count in parts)
    if wanted > len(images):
        raise ValueError(f'the parts have {wanted} images, but the file has {len(images)}')
    places = random.Random(seed).sample(range(len(images)), wanted)
    found = {}
    for name, count in parts:
        own = [images[place] for place in sorted(places[:count])]
        places = places[count:]
        ids = {image['id'] for image in own}
        boxes = [box for box in content['annotations'] if box['image_id'] in ids]
        found[name] = {**content, 'images': own, 'annotations': boxes}
    return found


def main() -> None:
    """Read the file, write its parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('file', type=Path, help='annotation file in COCO format')
    parser.add_argument(
        'parts',
        nargs='+',
        type=parse_part,
        metavar='NAME=IMAGES',
        help='the parts, such as tune=40',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the draw (default: 0)')
    args = parser.parse_args()
    names = [name for name, _ in args.parts]
    if len(set(names)) < len(names):
        parser.error(f'each part needs a name of its own, got {", ".join(names)}')
    if not args.file.is_file():
        raise FileNotFoundError(f'The annotation file {args.file} does not exist')
    if not read_coco(args.file).has_annotations:  # which also says what is wrong with it
        raise ValueError(f'{args.file} has no "annotations": there are no boxes to split')
    parts = split(load_coco(args.file), args.parts, args.seed)
    written = {args.file.with_name(f'{name}.json'): part for name, part in parts.items()}
    there = [str(path) for path in written if path.exists()]
    if there:
        raise FileExistsError(
            f'{", ".join(there)} exists; remove it, or give the part another name'
        )
    for path, part in written.items():
        write_whole(json.dumps(part).encode(), path)
        print(f'{path}: {len(part["images"])} images, {len(part["annotations"])} boxes')


if __name__ == '__main__':
    run_script(main)
