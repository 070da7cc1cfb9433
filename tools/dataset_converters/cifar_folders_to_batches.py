r"""Convert CIFAR-10 or CIFAR-100 from image folders into CIFAR's batch files.

Reads {train,test}/<class>/*.{jpg,png}; writes cifar-10-batches-py/ or cifar-100-python/ with the
names and keys of the original files. The public CIFAR-10 images, for example:

    python tools/dataset_converters/cifar_folders_to_batches.py FOLDERS data/cifar10

MMPreTrain's CIFAR10 compares checksums and takes only the original files; it downloads them into
the same folder if others are there. mmwau's CIFARBatches takes these and the original ones:

    python tools/train.py configs/cifar/resnet20_wau_cifar10.py --cfg-options \
        {train,val}_dataloader.dataset.type=CIFARBatches
"""

import argparse
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mmwau.datasets.cifar import LAYOUTS
from mmwau.files.whole import check_new, whole_folder, write_whole
from mmwau.reporting.labels import name_some
from mmwau.reporting.terminal import track
from mmwau.scripts.errors import run_script

SPLITS = ('train', 'test')
SUFFIXES = ('.jpg', '.jpeg', '.png')
SIZE = (32, 32)


def convert(source: Path, target: Path, seed: int = 0) -> dict[str, int]:
    """Convert both splits into a new folder.

    Labels are the places of the classes in alphabetical order, which are those of the original
    CIFAR-10 and CIFAR-100 (fine labels). Images come in an order that the seed shuffles, so that
    the first N of them are a fair sample.

    Args:
        source: Folder with train/ and test/, in each a folder of images for each class.
        target: Folder to make. It appears when it is complete, or not at all.
        seed: Seed of the order.

    Returns:
        The number of images by split.

    Raises:
        FileExistsError: If ``target`` exists and is not an empty folder.
        FileNotFoundError: If a folder is missing or has no images.
        ValueError: If the splits differ in their classes, there are not 10 or 100 of them, or an
            image can't be read or is not 32×32.
    """
    check_new(target)
    classes = _find_classes(source)
    layout = LAYOUTS[len(classes)]
    _report_left_out(source, classes)
    written = {}
    with whole_folder(target) as unfinished:
        for split in SPLITS:
            paths = [path for name in classes for path in _find_images(source / split / name)]
            # Only NumPy's types have it that it shuffles nothing but numbers.
            np.random.default_rng([seed, *split.encode()]).shuffle(paths)  # type: ignore[arg-type]
            what = f'Reading {len(paths)} images of {split}/'
            pixels = np.stack([_read(path) for path in track(paths, what)])
            parts = np.array_split(np.arange(len(paths)), len(layout.batches[split]))
            for name, part in zip(layout.batches[split], parts, strict=True):
                content = {
                    'batch_label': name,
                    'data': pixels[part],
                    layout.labels: [classes.index(paths[index].parent.name) for index in part],
                    'filenames': [paths[index].name for index in part],
                }
                write_whole(pickle.dumps(content), unfinished / layout.folder / name)
            written[split] = len(paths)
        names = pickle.dumps({layout.names: classes})
        write_whole(names, unfinished / layout.folder / layout.meta)
    return written


def _find_classes(source: Path) -> list[str]:
    found = {}
    for split in SPLITS:
        if not (source / split).is_dir():
            raise FileNotFoundError(
                f'{source / split} does not exist: {source} should have train/ and test/ in it, '
                'and they a folder of images for each class'
            )
        found[split] = sorted(path.name for path in _visible(source / split) if path.is_dir())
    differ = sorted(set(found['train']) ^ set(found['test']))
    if differ:
        raise ValueError(f'only one of train/ and test/ has the classes {", ".join(differ)}')
    if len(found['train']) not in LAYOUTS:
        raise ValueError(
            f'{source / "train"} should have 10 or 100 classes, as CIFAR has; there are '
            f'{len(found["train"])}: {", ".join(found["train"][:12])}'
        )
    return found['train']


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith('.'))


def _find_images(folder: Path) -> Sequence[Path]:
    paths = [path for path in _visible(folder) if _is_image(path)]
    if not paths:
        raise FileNotFoundError(f'{folder} has no images ({", ".join(SUFFIXES)})')
    return paths


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES


def _report_left_out(source: Path, classes: Sequence[str]) -> None:
    """Print what lies in the folders and is not converted."""
    for split in SPLITS:
        names = [path.name for path in _visible(source / split) if path.name not in classes]
        for name in classes:
            others = [path for path in _visible(source / split / name) if not _is_image(path)]
            names += [f'{name}/{path.name}' + '/' * path.is_dir() for path in others]
        if names:
            print(
                f'{source / split}: left out, since images ({", ".join(SUFFIXES)}) are read only '
                f'from the folders of the classes: {name_some(names, 5)}'
            )


def _read(path: Path) -> np.ndarray:
    """Read an image as CIFAR keeps it: all of red, then green, then blue; uint8 (3072,)."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError) as error:  # PIL's errors for what is no image, or truncated
        raise ValueError(f'{path} can not be read: {error}') from error
    if pixels.shape[:2] != SIZE:
        raise ValueError(
            f'{path} is {pixels.shape[1]}×{pixels.shape[0]} pixels; images of CIFAR are 32×32'
        )
    return pixels.transpose(2, 0, 1).reshape(-1)


def _to_rgb(image: Image.Image) -> Image.Image:
    # Grey of 16 bits, which Pillow cuts at 255 instead of scaling it. Versions differ in its mode.
    if image.mode == 'I' or image.mode.startswith('I;16'):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert('RGB')


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('source', type=Path, help='folder with train/ and test/')
    parser.add_argument('target', type=Path, help='folder to make')
    parser.add_argument('--seed', type=int, default=0, help='seed of the order (default: 0)')
    args = parser.parse_args()
    written = convert(args.source, args.target, args.seed)
    print(f'{args.target}: ' + ', '.join(f'{count} {split}' for split, count in written.items()))


if __name__ == '__main__':
    run_script(main)
