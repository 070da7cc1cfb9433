"""CIFAR batches of any origin."""

import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS


class Layout(NamedTuple):
    """Names in the files of a CIFAR data set."""

    folder: str  # has all of its files
    batches: dict[str, list[str]]  # the batch files of each split
    meta: str  # the file with the names of the classes
    labels: str  # key of the labels in a batch file
    names: str  # key of the names of the classes


BATCHES_OF_10 = {
    'train': [f'data_batch_{number}' for number in range(1, 6)],
    'test': ['test_batch'],
}
BATCHES_OF_100 = {'train': ['train'], 'test': ['test']}
LAYOUTS = {  # by number of classes
    10: Layout('cifar-10-batches-py', BATCHES_OF_10, 'batches.meta', 'labels', 'label_names'),
    100: Layout('cifar-100-python', BATCHES_OF_100, 'meta', 'fine_labels', 'fine_label_names'),
}


@DATASETS.register_module()
class CIFARBatches(BaseDataset):
    """CIFAR-10 or CIFAR-100 from batch files that are not, to the byte, those of its authors.

    MMPreTrain's ``CIFAR10`` compares checksums and takes only the originals. This one takes what
    ``tools/dataset_converters/cifar_folders_to_batches.py`` makes of image folders, and the
    original batches too. Items are those of MMPreTrain: ``img``, uint8 RGB of shape (32, 32, 3),
    and ``gt_label``, an integer. Batches are pickled: read only those that you trust.

    Args:
        data_root: Folder with ``cifar-10-batches-py`` or ``cifar-100-python`` in it.
        split: ``'train'`` or ``'test'``. Defaults to ``'train'``.
        **kwargs: Other arguments of MMEngine's ``BaseDataset``. Of batches that the converter
            made, ``indices=N`` keeps a fair sample of N images.

    Raises:
        FileNotFoundError: If there are no batches below ``data_root``.
        ValueError: If ``split`` is neither of the two, or there are batches of both data sets.
    """

    def __init__(self, data_root: str, split: str = 'train', **kwargs: object):
        if split not in ('train', 'test'):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        self.split = split
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read images and labels."""
        root = Path(self.data_root)
        found = [it for it in LAYOUTS.values() if (root / it.folder / it.meta).is_file()]
        if not found:
            expected = ' or '.join(f'{it.folder}/{it.meta}' for it in LAYOUTS.values())
            raise FileNotFoundError(
                f'data_root: there is no {expected} in {root}. Make them of image folders with: '
                f'python tools/dataset_converters/cifar_folders_to_batches.py FOLDERS {root}'
            )
        if len(found) > 1:
            folders = ' and '.join(it.folder for it in found)
            raise ValueError(
                f'data_root: {root} has {folders}, and nothing says which of them is meant. Put '
                'them into folders of their own, and name one'
            )
        layout = found[0]
        folder = root / layout.folder
        self._metainfo.setdefault('classes', tuple(_load(folder / layout.meta)[layout.names]))
        data_list = []
        for name in layout.batches[self.split]:
            batch = _load(folder / name)
            images: np.ndarray = np.asarray(batch['data'], np.uint8).reshape(-1, 3, 32, 32)
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
            data_list += [
                {'img': image, 'gt_label': int(label)}
                for image, label in zip(images, batch[layout.labels], strict=True)
            ]
        return data_list


def _load(path: Path) -> dict:
    with open(path, 'rb') as file:
        return pickle.load(file, encoding='latin1')
