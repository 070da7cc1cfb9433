"""Convert a detection set in Pascal VOC form into COCO form.

Reads Annotations/*.xml, ImageSets/Main/<set>.txt and the images of JPEGImages/; writes
annotations/<split>.json and <split>/<image>. The public BCCD repository, for example:

    python tools/dataset_converters/voc_to_coco.py BCCD_Dataset/BCCD data/bccd

Without image sets, images are split at random, or by the folders that they lie in. Where there is
no Annotations/ and no JPEGImages/, XML files lie beside the images, or in folders that are named:

    python tools/dataset_converters/voc_to_coco.py FOLDER data/mine --split train val=test
    python tools/dataset_converters/voc_to_coco.py FOLDER data/mine --split-ratio 0.8 0.2
    python tools/dataset_converters/voc_to_coco.py raccoon_dataset data/raccoon \
        --annotations annotations --images images --split-ratio 0.8 0.2 --seed 1
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

from mmwau.datasets import voc
from mmwau.files.whole import check_new, whole_folder
from mmwau.reporting.labels import name_some
from mmwau.reporting.terminal import track
from mmwau.scripts.errors import run_script


def convert(
    source: Path,
    target: Path,
    splits: Mapping[str, str | float],
    classes: Sequence[str] = (),
    annotations: str | None = None,
    images: str | None = None,
    seed: int = 0,
) -> dict[str, dict]:
    """Convert the splits of a VOC data set into a new folder.

    VOC counts pixels from 1 and its boxes end with the last pixel inside, so that the COCO box
    is (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1), cut to the image. Objects marked
    difficult become ``iscrowd=1``: neither trained on nor counted in the evaluation. An image
    belongs to the XML file of the same name, folders below the two named ones included.

    Args:
        source: Folder of the data set.
        target: Folder to make. It appears when it is complete, or not at all.
        splits: For each split to write, the name of the image set to read, or where there are
            none, of the folder that has its XML files; or for all splits the fraction of the images
            that each gets, in (0, 1].
        classes: Classes to keep, in this order. All by default, in alphabetical order.
        annotations: Folder of the XML files, below ``source``. Annotations/ by default, or
            ``source`` itself where there is none.
        images: The same for the images, with JPEGImages/.
        seed: Seed of a random split.

    Returns:
        The COCO annotations by split.

    Raises:
        FileExistsError: If ``target`` exists and is not an empty folder.
        FileNotFoundError: If a folder, an image set, an annotation or an image is missing.
        ValueError: If a file can't be read or paired, or a class is in no annotation.
    """
    check_new(target)
    xml_folder = _folder(source, annotations, 'Annotations')
    image_folder = _folder(source, images, 'JPEGImages')
    xml_files = voc.find_files(xml_folder, voc.ANNOTATIONS)
    image_files = voc.find_files(image_folder, voc.IMAGES)
    if not xml_files:
        raise FileNotFoundError(
            f'{xml_folder} has no XML files. {source} should be the folder of a VOC data set, with '
            'Annotations/ and JPEGImages/ in it, or of images with XML files beside them; name '
            'other folders with --annotations and --images'
        )
    unannotated = [name for name in image_files if name not in xml_files]
    if unannotated:
        left_out = name_some(unannotated, 5)
        print(f'{len(unannotated)} images have no annotation and are left out: {left_out}')
    names = _split(source, xml_folder, splits, xml_files, seed)
    used = sorted(set().union(*names.values()))
    others = sorted(xml_files.keys() - used)
    if others:
        left_out = name_some(others, 5)
        print(f'{len(others)} annotations are in none of the splits and are left out: {left_out}')
    read = {name: voc.read_annotation(_only(xml_files[name])) for name in used}
    paths = {name: voc.find_image(read[name], name, image_files) for name in used}
    found = sorted({box.label for annotation in read.values() for box in annotation.boxes})
    unknown = [name for name in classes if name not in found]
    if unknown:
        raise ValueError(f'no object is of class {", ".join(unknown)}; there are {found}')
    categories = {name: index + 1 for index, name in enumerate(classes or found)}
    written = {}
    with whole_folder(target) as unfinished:
        (unfinished / 'annotations').mkdir()
        for split, members in names.items():
            samples = [(paths[name], read[name]) for name in members]
            coco = _convert_split(image_folder, unfinished / split, samples, categories)
            content = json.dumps(coco, allow_nan=False)
            (unfinished / 'annotations' / f'{split}.json').write_text(content)
            written[split] = coco
    return written


def _folder(source: Path, name: str | None, usual: str) -> Path:
    folder = source / usual if name is None else source / name
    if name is None and not folder.is_dir():
        folder = source
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} does not exist, or is not a folder')
    return folder


def _split(
    source: Path,
    xml_folder: Path,
    splits: Mapping[str, str | float],
    known: Mapping[str, list[Path]],
    seed: int,
) -> dict[str, list[str]]:
    named = {split: part for split, part in splits.items() if isinstance(part, str)}
    if not named:
        parts = voc.split_names(list(known), list(map(float, splits.values())), seed)
        return dict(zip(splits, parts, strict=True))
    sets = source / 'ImageSets' / 'Main'
    if not sets.is_dir():
        return _split_by_folder(xml_folder, named, known, sets)
    names = {
        split: voc.read_image_set(sets / f'{name}.txt', known) for split, name in named.items()
    }
    for one, two in combinations(names, 2):
        both = len(set(names[one]) & set(names[two]))
        if both:
            print(f'{both} images are in {one!r} and in {two!r}')
    return names


def _split_by_folder(
    xml_folder: Path, splits: Mapping[str, str], known: Mapping[str, list[Path]], sets: Path
) -> dict[str, list[str]]:
    names = {
        split: [name for name in known if name.startswith(f'{folder}/')]
        for split, folder in splits.items()
    }
    for split, folder in splits.items():
        if not names[split]:
            raise FileNotFoundError(
                f'{sets} does not exist, nor are there XML files in {xml_folder / folder}: nothing '
                f'says which images belong to {split!r}. Name the folders (--split train val=test),'
                ' or split at random: --split-ratio 0.8 0.2'
            )
    return names


def _only(paths: Sequence[Path]) -> Path:
    if len(paths) > 1:
        raise ValueError(f'{" and ".join(map(str, paths))} have the same name; keep one of them')
    return paths[0]


def _convert_split(
    image_folder: Path,
    target: Path,
    samples: Sequence[tuple[Path, voc.Annotation]],
    categories: Mapping[str, int],
) -> dict:
    images: list[dict] = []
    annotations: list[dict] = []
    cut: list[Path] = []
    without_area: list[Path] = []
    resized: list[Path] = []
    tracked = track(samples, f'Converting the split {target.name!r}')
    for image_id, (path, annotation) in enumerate(tracked):
        file_name = path.relative_to(image_folder).as_posix()
        width, height = voc.loaded_size(path, annotation.size)
        if annotation.size not in (None, (width, height)):
            resized.append(annotation.path)
        copy = target / file_name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        images.append({'id': image_id, 'file_name': file_name, 'width': width, 'height': height})
        for box in annotation.boxes:
            if box.label not in categories:
                continue
            xmin, ymin, xmax, ymax = box.corners
            left, top = max(xmin - 1, 0.0), max(ymin - 1, 0.0)
            box_width, box_height = min(xmax, width) - left, min(ymax, height) - top
            if box_width <= 0 or box_height <= 0:
                without_area.append(annotation.path)
                continue
            # A pixel more is a matter of where tools count from.
            if min(xmin, ymin) < 0 or xmax > width + 1 or ymax > height + 1:
                cut.append(annotation.path)
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': image_id,
                    'category_id': categories[box.label],
                    'bbox': [left, top, box_width, box_height],
                    'area': box_width * box_height,
                    'iscrowd': int(box.difficult),
                }
            )
    print(f'{len(images)} images, {len(annotations)} boxes')
    for paths, what in ((cut, 'cut to their image'), (without_area, 'without area left out')):
        if paths:
            print(f'{len(paths)} boxes {what}: {name_some(sorted(set(map(str, paths))), 5)}')
    if resized:
        print(
            f'{len(resized)} images are of another size than their annotation says; if they were '
            f'resized, boxes are in wrong places: {name_some(list(map(str, resized)), 5)}'
        )
    listed = [{'id': index, 'name': name} for name, index in categories.items()]
    return {'images': images, 'annotations': annotations, 'categories': listed}


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('source', type=Path, help='folder of the VOC data set')
    add('target', type=Path, help='folder to make')
    sets = (
        'splits to write, each from the image set of the same name or from the one named after '
        '"="; where there are no image sets, from such a folder (default: train val)'
    )
    add('--split', nargs='+', default=['train', 'val'], metavar='SPLIT[=SET]', help=sets)
    drawn = 'fraction of the images for each split, drawn at random, instead of image sets'
    add('--split-ratio', nargs='+', type=float, metavar='FRACTION', help=drawn)
    add('--seed', type=int, default=0, help='seed of --split-ratio (default: %(default)s)')
    add('--classes', nargs='+', default=[], help='classes to keep (default: all)')
    for option, what, usual in (
        ('--annotations', 'XML files', 'Annotations'),
        ('--images', 'images', 'JPEGImages'),
    ):
        add(option, help=f'folder of the {what}, in SOURCE (default: {usual}, or SOURCE)')
    args = parser.parse_args()
    splits = {split: name or split for split, _, name in (t.partition('=') for t in args.split)}
    if len(splits) < len(args.split):
        parser.error(f'--split names a split more than once: {" ".join(args.split)}')
    if args.split_ratio:
        if len(args.split_ratio) != len(args.split) or any('=' in text for text in args.split):
            parser.error(
                '--split-ratio needs one fraction for each split, which then have no image sets: '
                f'got {len(args.split_ratio)} fractions for {" ".join(args.split)}'
            )
        splits = dict(zip(args.split, args.split_ratio, strict=True))
    convert(
        args.source, args.target, splits, args.classes, args.annotations, args.images, args.seed
    )


if __name__ == '__main__':
    run_script(main)
