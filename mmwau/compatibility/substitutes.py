"""Drawn data and random networks in place of those that a recipe reads from files."""

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from mmwau.datasets.shapes import CLASSES
from mmwau.files.whole import whole_folder

from .data import NUM_THINGS, class_names, panoptic_names
from .pose import drawn_pose
from .rotated import drawn_rotated
from .segmentation import drawn_segmentation

# What the drawn language model knows beside CLASSES; the rest are unknown words to it.
WORDS = 'a and of picture object class stuff . ? , :'
NUMBERS = 100
BERT_SIZE = dict(hidden_size=768, num_attention_heads=12, intermediate_size=768)


def drawn_dataset(dataset: dict, root: Path, num_classes: int, project: str) -> dict:
    """A data set of :func:`.data.make_data` for a recipe's own of files.

    Args:
        dataset: The recipe's; its pipeline and some settings stay.
        root: The folder of the drawn data.
        num_classes: Of the recipe's head, at least 1; for detectors.
        project: The recipe's.
    """
    if project in OF_PROJECT:
        return OF_PROJECT[project](dataset, root, num_classes)
    kind = str(dataset.get('type')).rpartition('.')[2]
    if kind in OF_KIND:
        return OF_KIND[kind](dataset, root, num_classes)
    if project == 'mmdet':
        return _detection(dataset, root, num_classes)
    place = dict(data_root=str(root / 'classification'), data_prefix='train')
    return dict(type='CustomDataset', **place, **_kept(dataset, 'pipeline'))


def bert_folder(root: Path) -> str:
    """Folder of a small BERT with random weights, and its tokenizer; made at the first call.

    Raises:
        ModuleNotFoundError: If the package transformers is missing.
    """
    place = root / 'bert'
    if not place.exists():
        from transformers import BertConfig, BertModel, BertTokenizerFast

        special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
        words = [*special, *WORDS.split(), *CLASSES, *map(str, range(NUMBERS))]
        with whole_folder(place) as unfinished:
            vocabulary = unfinished / 'vocab.txt'
            vocabulary.write_text('\n'.join(words))
            BertTokenizerFast(str(vocabulary)).save_pretrained(unfinished)
            # A few tokens more than words: BLIP adds its own.
            config = BertConfig(vocab_size=len(words) + 8, num_hidden_layers=2, **BERT_SIZE)
            BertModel(config).save_pretrained(unfinished)
    return str(place)


def clip_file(root: Path) -> str:
    """File of a small CLIP with random weights, of patches of 16 and features of 512 values."""
    place = root / 'clip' / 'clip.pth'
    if not place.exists():
        from mmpretrain.models.utils.clip_generator_helper import CLIP

        vision = dict(vision_layers=2, vision_width=64, vision_patch_size=16)
        text = dict(transformer_width=64, transformer_heads=1, transformer_layers=1)
        sizes = dict(embed_dim=512, image_resolution=224, context_length=8, vocab_size=8)
        with whole_folder(place.parent) as unfinished:
            torch.save(CLIP(**sizes, **vision, **text).state_dict(), unfinished / place.name)
    return str(place)


def _kept(dataset: dict, *names: str) -> dict:
    return {name: dataset[name] for name in names if name in dataset}


def _classes_file(num_classes: int) -> str:
    return 'objects_train.json' if num_classes == 1 else 'instances_train.json'


def _detection(dataset: dict, root: Path, num_classes: int) -> dict:
    drawn = dict(
        type='CocoDataset',
        data_root=str(root / 'detection'),
        ann_file=f'annotations/{_classes_file(num_classes)}',
        data_prefix=dict(img='train/', seg='semantic/'),
        metainfo=dict(classes=tuple(class_names(num_classes))),
    )
    if 'proposal_file' in dataset:
        drawn['proposal_file'] = 'proposals.pkl'
    return drawn | _kept(dataset, 'pipeline', 'filter_cfg', 'return_classes')


def _panoptic(dataset: dict, root: Path, num_classes: int) -> dict:
    """Panoptic data, which MMDetection reads with panopticapi: a package that PyPI lacks."""
    if 'panopticapi' not in sys.modules and not find_spec('panopticapi'):
        package, utils = ModuleType('panopticapi'), ModuleType('panopticapi.utils')
        package.utils = utils  # type: ignore[attr-defined]
        utils.rgb2id = _rgb2id  # type: ignore[attr-defined]
        sys.modules |= {'panopticapi': package, 'panopticapi.utils': utils}
    names = tuple(panoptic_names())
    things, stuff = names[:NUM_THINGS], names[NUM_THINGS:]
    return dict(
        type='CocoPanopticDataset',
        data_root=str(root / 'detection'),
        ann_file='annotations/panoptic_train.json',
        data_prefix=dict(img='train/', seg='panoptic/'),
        metainfo=dict(classes=names, thing_classes=things, stuff_classes=stuff),
        **_kept(dataset, 'pipeline', 'filter_cfg'),
    )


def _rgb2id(colour):  # type: ignore[no-untyped-def]
    """The number of each pixel's segment, shape (height, width), of an RGB image."""
    red, green, blue = colour.astype('int64').transpose(2, 0, 1)
    return red + 256 * green + 256**2 * blue


def _odvg(dataset: dict, root: Path, num_classes: int) -> dict:
    return dict(
        data_root=str(root / 'detection'),
        ann_file='annotations/odvg_train.jsonl',
        label_map_file='annotations/odvg_labels.json',
        data_prefix=dict(img='train/'),
        **_kept(dataset, 'type', 'pipeline', 'filter_cfg', 'return_classes'),
    )


def _videos(dataset: dict, root: Path, num_classes: int) -> dict:
    settings = _kept(dataset, 'type', 'pipeline', 'filter_cfg', 'visibility_thr', 'dataset_version')
    return dict(
        data_root=str(root / 'videos'),
        ann_file=_classes_file(num_classes),
        data_prefix=dict(img_path='train'),
        metainfo=dict(classes=tuple(class_names(num_classes))),
        **settings,
    )


def _crops(dataset: dict, root: Path, num_classes: int) -> dict:
    place = dict(ann_file='train.txt', data_prefix=dict(img_path='train'))
    kept = _kept(dataset, 'type', 'pipeline', 'triplet_sampler')
    return dict(data_root=str(root / 'reid'), **place, **kept)


def _mnist(dataset: dict, root: Path, num_classes: int) -> dict:
    return dict(data_root=str(root / 'mnist'), **_kept(dataset, 'type', 'pipeline'))


def _captions(dataset: dict, root: Path, num_classes: int, name: str) -> dict:
    place = dict(ann_file=f'annotations/{name}', data_prefix=dict(img_path=''))
    return dict(data_root=str(root / 'detection'), **place, **_kept(dataset, 'type', 'pipeline'))


OF_PROJECT = {'mmseg': drawn_segmentation, 'mmrotate': drawn_rotated, 'mmpose': drawn_pose}
OF_KIND: dict[str, Callable[[dict, Path, int], dict]] = {
    'CocoPanopticDataset': _panoptic,
    'ODVGDataset': _odvg,
    'MOTChallengeDataset': _videos,
    'YouTubeVISDataset': _videos,
    'ReIDDataset': _crops,
    'MNIST': _mnist,
    'FashionMNIST': _mnist,
    'COCOCaption': partial(_captions, name='captions_lavis.json'),
    'COCORetrieval': partial(_captions, name='captions_coco.json'),
}
