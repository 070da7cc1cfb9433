"""Annotation files and their images: what is refused, and how they are read."""

import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from annotations import (
    AGAIN,
    TRAIN,
    VAL,
    annotation,
    categories,
    classes,
    content,
    entry,
)
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from PIL import Image
from pycocotools import coco

from mmwau.datasets.coco_file import read_coco
from mmwau.datasets.shapes import CLASSES
from mmwau.scripts.data_check import check_data
from mmwau.scripts.launch import build_runner
from mmwau.scripts.preflight import check_train_config

REFUSED = {
    'no area': (
        annotation(area=None),
        f'train_dataloader.dataset.ann_file: {TRAIN}: 1 of 1 annotations have no usable "area", '
        'the first of them that with the id 1. It should be the area in pixels (width × height if '
        'there are only boxes)',
    ),
    'area in words': (annotation(area='2500'), "them that with the id 1, which has '2500'. It sho"),
    'no box': (annotation(bbox=None), '1 of 1 annotations have no usable "bbox"'),
    'short box': (annotation(bbox=[1, 2, 3]), 'with the id 1, which has [1, 2, 3]. It should be'),
    'text in a box': (annotation(bbox=[1, 2, 3, '4']), "the id 1, which has [1, 2, 3, '4']"),
    'one box of two': (
        content(annotations=[AGAIN, {**AGAIN, 'id': 2, 'bbox': [1, [2], 3, 4]}]),
        '1 of 2 annotations have no usable "bbox", the first of them that with the id 2, which',
    ),
    'endless box': (annotation(bbox=[1, 1, 9, math.inf]), 'box of annotation 1 is [1, 1, 9, inf]'),
    'no crowd': (
        annotation(VAL, iscrowd=None),
        f'val_evaluator.ann_file: {VAL}: 1 of 1 annotations have no usable "iscrowd", the first of '
        'them annotations[0]. Evaluation needs it: 0 for a single object, 1 for a crowd',
    ),
    'no category': (
        annotation(category_id=0),
        f'{TRAIN}: no category has the id 0 (1 annotations). These objects would be trained on as '
        'background. The categories are 1 (circle), 2 (square), 3 (triangle), 4 (star), 5 (cross)',
    ),
    'no width': (
        entry('images', width=None),
        f'{TRAIN}: 1 of 1 images have no usable "width", the first of them images[0]',
    ),
    'text for a height': (entry('images', height='160'), "images[0], which has '160'"),
    'no id': (annotation(id=None), '1 of 1 annotations have no usable "id"'),
    'no name': (entry('categories', name=None), '1 of 5 categories have no usable "name"'),
    'one id for two annotations': (
        content(annotations=[AGAIN, AGAIN]),
        f'{TRAIN}: two annotations have the id 1. Ids have to be unique',
    ),
    'one id for two images': (
        content(images=[{'id': 0, 'file_name': name, 'width': 9, 'height': 9} for name in 'ab']),
        f'{TRAIN}: two images have the id 0',
    ),
    'one id for two categories': (
        content(categories=[{'id': 1, 'name': name} for name in CLASSES]),
        f'{TRAIN}: two categories have the id 1',
    ),
    'no list': (content(annotations={}), f'{TRAIN}: "annotations" should be a list of JSON'),
    'no masks': (
        lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(with_mask=True),
        '1 annotations have no "segmentation", which the pipeline loads (with_mask=True)',
    ),
    'no masks to evaluate with': (
        lambda cfg: cfg.val_evaluator.update(metric=['bbox', 'segm']),
        '1 annotations have no "segmentation", which metric=\'segm\' compares',
    ),
    'no folder': (
        lambda cfg: cfg.train_dataloader.dataset.pop('data_prefix'),
        'train_dataloader.dataset.data_prefix should have the folder of the images, as in data',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_goes_wrong_is_refused(cfg, case):
    harm, words = REFUSED[case]
    harm(cfg)
    with pytest.raises(ValueError, match=re.escape(words)):
        check_train_config(cfg)


def test_images_that_are_not_there_are_refused(cfg):
    names = ['0.jpg', 'sub/1.jpg', 'none.jpg']
    images = [
        {'id': id_, 'file_name': name, 'width': 160, 'height': 160}
        for id_, name in enumerate(names)
    ]
    content(images=images)(cfg)
    Path('data/demo/train/sub').mkdir()
    words = f'train_dataloader.dataset.ann_file: {TRAIN}: 2 of its 3 images are not in train_data'
    with pytest.raises(FileNotFoundError, match=re.escape(words)):
        check_train_config(cfg)
    with pytest.raises(
        FileNotFoundError, match=r'img: data/demo/train/none.jpg, data/demo/train/sub'
    ):
        check_train_config(cfg)
    # Those that no training would load may be missing.
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=32)
    check_train_config(cfg)
    cfg.train_dataloader.dataset.filter_cfg = None
    cfg.train_dataloader.dataset.indices = 1
    check_train_config(cfg)
    del cfg.train_dataloader.dataset['indices']
    cfg.train_dataloader.dataset.pipeline[0].ignore_empty = True
    check_train_config(cfg)
    cfg.train_dataloader.dataset.pipeline[0].ignore_empty = False
    for name in names[1:]:
        Image.new('RGB', (160, 160)).save(f'data/demo/train/{name}')
    check_train_config(cfg)


def test_folders_of_data_without_annotation_files_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/demo/train').mkdir(parents=True)
    prefixes = dict(img_path='train/', seg_map_path='maps/train/')
    dataset = dict(type='BaseSegDataset', data_root='data/demo/', data_prefix=prefixes)
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    said = r'train_dataloader.dataset.data_prefix.seg_map_path: data/demo/maps/train does not exist'
    with pytest.raises(
        FileNotFoundError, match=rf'{said}.*remove data/demo, which was drawn before'
    ):
        check_data(cfg, ['train'])
    (tmp_path / 'data/demo/maps/train').mkdir(parents=True)
    assert check_data(cfg, ['train']) == []


def test_boxes_are_counted_as_mmdetection_reads_them(cfg):
    rng = np.random.default_rng(0)

    def draw(id_):
        box = [*rng.integers(-90, 180, 2).tolist(), *rng.integers(-2, 60, 2).tolist()]
        box[rng.integers(4)] += rng.choice([0, 0.5, math.nan], p=[0.5, 0.4, 0.1])
        flags = rng.random(3) < 0.2
        return dict(
            id=id_,
            image_id=int(flags[0]) * 7,
            category_id=int(rng.integers(1, 6)),
            bbox=box,
            area=float(rng.choice([0, 0.5, 200])),
            iscrowd=int(flags[1]),
            ignore=int(flags[2]),
        )

    content(annotations=[draw(id_) for id_ in range(1, 400)])(cfg)
    dataset = CocoDataset(
        ann_file=str(TRAIN), data_prefix=dict(img=''), metainfo=dict(classes=CLASSES), pipeline=[]
    )
    instances = dataset.get_data_info(0)['instances']
    labels = Counter(item['bbox_label'] for item in instances if not item['ignore_flag'])
    file = read_coco(TRAIN)
    assert file.trained == Counter({label + 1: count for label, count in labels.items()})
    assert min(labels.values()) > 5
    assert all(file.left_out.values())
    assert len(file.left_out) == 3


def test_a_byte_order_mark_does_no_harm(cfg, monkeypatch):
    monkeypatch.delattr(coco, 'open', raising=False)
    classes('ä', *CLASSES[1:])(cfg)
    for path in (TRAIN, VAL):
        categories('ä', *CLASSES[1:], path=path)(cfg)
        path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), 'utf-8-sig')
    with pytest.raises(ValueError, match='BOM'):
        coco.COCO(str(TRAIN))
    check_train_config(cfg)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    runner = build_runner(cfg)
    dataset = runner.build_dataloader(cfg.train_dataloader).dataset
    assert [item['bbox_label'] for item in dataset.get_data_info(0)['instances']] == [0]
    metric = runner.build_evaluator(cfg.val_evaluator).metrics[0]
    assert metric._coco_api.cats[1]['name'] == 'ä'
