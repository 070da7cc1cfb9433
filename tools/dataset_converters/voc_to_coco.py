"""Convert a detection set in Pascal VOC form into COCO form.

Reads Annotations/*.xml, ImageSets/Main/<set>.txt and the images of JPEGImages/; writes
annotations/<split>.json and <split>/<image>. The public BCCD repository, for example:

    python tools/dataset_converters/voc_to_coco.py BCCD_Dataset/BCCD data/bccd
"""

import argparse
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

import mmwau.openmp  # noqa: F401  (before torch)

from mmengine.utils import track_iter_progress
from PIL import Image

from mmwau.files import whole_folder


def convert(
    source: Path, target: Path, splits: Mapping[str, str], classes: Sequence[str] = ()
) -> dict[str, dict]:
    """Convert the splits of a VOC data set into a new folder.

    VOC counts pixels from 1 and its boxes end with the last pixel inside, so that the COCO box
    is (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1), cut to the image. Objects marked
    difficult become ``iscrowd=1``: neither trained on nor counted in the evaluation.

    Args:
        source: Folder with Annotations/, ImageSets/Main/ and JPEGImages/.
        target: Folder to make. It appears when it is complete, or not at all.
        splits: For each split to write the name of the image set to read.
        classes: Classes to keep, in this order. All by default, in alphabetical order.

    Returns:
        The COCO annotations by split.

    Raises:
        FileExistsError: If ``target`` exists.
        FileNotFoundError: If a folder, an image set, an annotation or an image is missing.
        ValueError: If an annotation can't be read, or a class is in none of them.
    """
    if target.exists():
        raise FileExistsError(f'{target} exists already; remove it or name another folder')
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        if not (source / folder).is_dir():
            raise FileNotFoundError(
                f'{source / folder} does not exist: {source} should be the folder of a VOC data '
                'set, with Annotations/, ImageSets/Main/ and JPEGImages/ in it'
            )
    names = {split: _image_set(source, image_set) for split, image_set in splits.items()}
    objects = {
        name: _read_objects(source / 'Annotations' / f'{name}.xml')
        for name in sorted(set().union(*names.values()))
    }
    found = sorted({item['class'] for items in objects.values() for item in items})
    unknown = [name for name in classes if name not in found]
    if unknown:
        raise ValueError(f'no object is of class {", ".join(unknown)}; there are {found}')
    categories = {name: index + 1 for index, name in enumerate(classes or found)}
    written = {}
    with whole_folder(target) as unfinished:
        (unfinished / 'annotations').mkdir()
        for split in splits:
            print(f'Converting {len(names[split])} images of the split {split!r}')
            coco = _convert_split(source, unfinished / split, names[split], objects, categories)
            (unfinished / 'annotations' / f'{split}.json').write_text(json.dumps(coco))
            written[split] = coco
    return written


def _image_set(source: Path, image_set: str) -> list[str]:
    path = source / 'ImageSets' / 'Main' / f'{image_set}.txt'
    if not path.is_file():
        known = ', '.join(sorted(other.stem for other in path.parent.glob('*.txt')))
        raise FileNotFoundError(f'{path} does not exist; the image sets are: {known}')
    # A line may have a second column, which says whether the image has objects of a class.
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def _read_objects(path: Path) -> list[dict]:
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist, but an image set names it')
    try:
        return [
            {
                'class': node.findtext('name').strip(),
                'difficult': int(node.findtext('difficult') or 0),
                'corners': [
                    float(node.findtext(f'bndbox/{corner}'))
                    for corner in ('xmin', 'ymin', 'xmax', 'ymax')
                ],
            }
            for node in ET.parse(path).getroot().iter('object')
        ]
    except (ET.ParseError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'{path} is not a VOC annotation: {error}') from error


def _convert_split(
    source: Path, folder: Path, names: Sequence[str], objects: dict, categories: dict[str, int]
) -> dict:
    folder.mkdir()
    images, annotations, without_area = [], [], 0
    for image_id, name in enumerate(track_iter_progress(list(names))):
        found = sorted((source / 'JPEGImages').glob(f'{name}.*'))
        if not found:
            raise FileNotFoundError(f'{source / "JPEGImages" / name}.* does not exist')
        with Image.open(found[0]) as image:  # sizes in annotations are wrong now and then
            width, height = image.size
        shutil.copyfile(found[0], folder / found[0].name)
        images.append(
            {'id': image_id, 'file_name': found[0].name, 'width': width, 'height': height}
        )
        for item in objects[name]:
            if item['class'] not in categories:
                continue
            xmin, ymin, xmax, ymax = item['corners']
            left, top = max(xmin - 1, 0.0), max(ymin - 1, 0.0)
            box_width, box_height = min(xmax, width) - left, min(ymax, height) - top
            if box_width <= 0 or box_height <= 0:
                without_area += 1
                continue
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': categories[item['class']],
                    'bbox': [left, top, box_width, box_height],
                    'area': box_width * box_height,
                    'iscrowd': int(item['difficult'] > 0),
                }
            )
    print(f'\n{len(images)} images, {len(annotations)} boxes; {without_area} without area left out')
    return {
        'images': images,
        'annotations': annotations,
        'categories': [{'id': index, 'name': name} for name, index in categories.items()],
    }


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='folder of the VOC data set')
    parser.add_argument('target', type=Path, help='folder to make')
    parser.add_argument(
        '--split',
        nargs='+',
        default=['train', 'val'],
        metavar='SPLIT[=SET]',
        help='splits to write, each from the image set of the same name or from the one named '
        'after "=" (default: train val)',
    )
    parser.add_argument('--classes', nargs='+', default=[], help='classes to keep (default: all)')
    args = parser.parse_args()
    pairs = [text.partition('=') for text in args.split]
    try:
        convert(
            args.source,
            args.target,
            {split: image_set or split for split, _, image_set in pairs},
            args.classes,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()
