"""Annotation files beside the config: what is refused, what is remarked upon, what passes."""

import json
import logging
import math
import re
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from PIL import Image
from pycocotools import coco

from mmwau.class_check import remarks
from mmwau.data_check import check_data
from mmwau.datasets.coco_file import read_coco
from mmwau.datasets.shapes import CLASSES
from mmwau.launch import build_runner
from mmwau.preflight import check_test_config, check_train_config

TRAIN = Path('data/demo/annotations/instances_train.json')
VAL = Path('data/demo/annotations/instances_val.json')
OTHER = Path('data/demo/annotations/other.json')
TRAIN_ONLY = dict(val_dataloader=None, val_evaluator=None, val_cfg=None)


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def content(path=TRAIN, **parts):
    """Put other lists into a file."""
    return lambda cfg: change(path, lambda whole: whole.update(parts))


def entry(part, path=TRAIN, **values):
    """Change the only annotation or image of a file, or its first category; None removes a key."""

    def edit(whole):
        whole[part][0].update(values)
        for key in [key for key, value in values.items() if value is None]:
            del whole[part][0][key]

    return lambda cfg: change(path, edit)


def annotation(path=TRAIN, **values):
    return entry('annotations', path, **values)


def categories(*names, path=TRAIN):
    return content(path, categories=[{'id': 1 + i, 'name': name} for i, name in enumerate(names)])


def classes(*names):
    def write(cfg):
        for stage in ('train', 'val', 'test'):
            cfg[f'{stage}_dataloader'].dataset.metainfo = dict(classes=names)

    return write


def heads(**parts):
    return lambda cfg: cfg.model.roi_head.update(ConfigDict(parts))


def both(*changes):
    return lambda cfg: [change(cfg) for change in changes]


def outputs(count, **more):
    return dict(type='Shared2FCBBoxHead', num_classes=count, **more)


def other_file(cfg):
    """A copy of the annotations for the metric."""
    OTHER.write_bytes(VAL.read_bytes())
    cfg.val_evaluator.ann_file = str(OTHER)


def several(names):
    """A training set joined of files that differ in their categories."""

    def join(cfg):
        for index, some in enumerate(names):
            path = TRAIN.with_name(f'{index}.json')
            path.write_bytes(TRAIN.read_bytes())
            categories(*some, path=path)(cfg)
        dataset = cfg.train_dataloader.dataset
        parts = [{**dataset, 'ann_file': f'annotations/{i}.json'} for i in range(len(names))]
        cfg.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=parts)

    return join


SMALL = {'file_name': '0.jpg', 'width': 160, 'height': 160}
MISSPELT = ('circle', 'Square', 'triangle', 'star', 'cross')
SWAPPED = ('square', 'circle', 'triangle', 'star', 'cross')
AGAIN = {'id': 1, 'image_id': 0, 'category_id': 2, 'bbox': [1, 1, 9, 9], 'area': 81, 'iscrowd': 0}
REFUSED = {
    'misspelt': (classes(*MISSPELT), "the file has no category 'Square', but 'square'"),
    'both lists': (
        classes(*MISSPELT),
        'Classes of the config: circle, Square, triangle, star, cross. Categories of the file: '
        'circle (1 boxes), square (0 boxes), triangle (0 boxes), star (0 boxes), cross (0 boxes)',
    ),
    'letters': (classes('circle', 'sqare'), "no category 'sqare', but 'square'"),
    'signs': (
        both(categories('traffic_light', 'b'), classes('traffic light', 'b')),
        "no category 'traffic light', but 'traffic_light'",
    ),
    'none': (classes('dog', 'cat'), 'train_dataloader.dataset: the classes do not fit data/demo/'),
    'none of COCO': (
        lambda cfg: cfg.train_dataloader.dataset.pop('metainfo'),
        'no class of the config is in the file, so that no box would be read',
    ),
    'none in the evaluation': (
        categories('a', 'b', path=VAL),
        'val_dataloader.dataset: the classes do not fit data/demo/annotations/instances_val.json',
    ),
    'missing in the evaluation': (
        both(categories(*CLASSES[:4], path=VAL)),
        "val_evaluator: the classes do not fit data/demo/annotations/instances_val.json: the file "
        "has no category 'cross', so that the first detection of the last classes would stop",
    ),
    'twice in the file': (categories(*CLASSES, 'star'), 'has two categories of the same name'),
    'twice in the config': (classes(*CLASSES, 'star'), 'the config names a class twice'),
    'other order': (
        categories(*SWAPPED, path=VAL),
        "train_dataloader.dataset and val_dataloader.dataset: label 0 means 'circle' in data/demo/"
        "annotations/instances_train.json, and 'square' in data/demo/annotations/instances_val",
    ),
    'other order in one of several': (
        several([CLASSES, CLASSES[::-1]]),
        "label 0 means 'circle' in data/demo/annotations/0.json, and 'cross' in data/demo/annotati",
    ),
    'other order than one of several': (
        several([('circle',), ('circle', 'square'), ('circle', 'star')]),
        "label 1 means 'square' in data/demo/annotations/1.json, and 'star' in data/demo/annotati",
    ),
    'shifted': (
        both(categories('circle', *CLASSES[2:]), annotation(category_id=1)),
        "label 1 means 'triangle' in data/demo/annotations/instances_train.json, and 'square' in",
    ),
    'few outputs': (
        heads(bbox_head=outputs(4)),
        'model.roi_head.bbox_head.num_classes is 4, but train_dataloader.dataset has 5 classes in '
        f'{TRAIN}: circle, square, triangle, star, cross. Set it to 5',
    ),
    'few outputs of a cascade': (
        heads(bbox_head=[outputs(5), outputs(1)]),
        'model.roi_head.bbox_head[1].num_classes is 1',
    ),
    'few outputs of a detector in another model': (
        both(
            heads(bbox_head=outputs(4)),
            lambda cfg: setattr(cfg, 'model', dict(type='X', detector=deepcopy(cfg.model))),
        ),
        'model.detector.roi_head.bbox_head.num_classes is 4',
    ),
    'few masks': (
        heads(mask_head=dict(type='FCNMaskHead', num_classes=2)),
        'model.roi_head.mask_head.num_classes is 2',
    ),
    'few things': (
        lambda cfg: cfg.model.update(panoptic_head=dict(num_things_classes=3)),
        'model.panoptic_head.num_things_classes is 3',
    ),
    'no boxes': (content(annotations=[]), 'There are no boxes to train on. train_dataloader.datas'),
    'no boxes of size': (
        annotation(bbox=[0.1, 0.1, 0.5, 0.5]),
        'of its 1 annotations none is left: 1 without a size of 1 pixel in their image',
    ),
    'crowds alone': (annotation(iscrowd=1), 'none is left: they are crowds, or of other classes'),
    'other images': (
        annotation(image_id='0'),
        'none is left: 1 of images that the file does not have',
    ),
    'no area': (
        annotation(area=None),
        f'train_dataloader.dataset.ann_file: {TRAIN}: 1 of 1 annotations have no usable "area", '
        'the first of them that with the id 1. It should be the area in pixels, for boxes alone '
        'width × height',
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
    'other file for the metric': (
        both(other_file, content(VAL, images=[{'id': 9, **SMALL}])),
        'does not have all images of the data set, whose file is',
    ),
    'no masks': (
        lambda cfg: cfg.train_dataloader.dataset.pipeline[1].update(with_mask=True),
        '1 annotations have no "segmentation", which the pipeline loads (with_mask=True)',
    ),
    'no masks to evaluate with': (
        lambda cfg: cfg.val_evaluator.update(metric=['bbox', 'segm']),
        "1 annotations have no \"segmentation\", which metric='segm' compares",
    ),
    'no folder': (
        lambda cfg: cfg.train_dataloader.dataset.pop('data_prefix'),
        'train_dataloader.dataset.data_prefix should have the folder of the images, as in data',
    ),
}  # fmt: skip


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


@pytest.mark.parametrize('text', ['cat', 'circle'])
def test_one_string_for_the_classes_is_refused(cfg, text):
    classes(*CLASSES)(cfg)
    cfg.train_dataloader.dataset.metainfo.classes = text
    with pytest.raises(
        TypeError, match=re.escape(f"got '{text}'. A tuple of one name needs a comma")
    ):
        check_train_config(cfg)


def told(cfg, stages=('train', 'val')):
    check_train_config(cfg)
    return '\n'.join(remarks(cfg, check_data(cfg, stages)))


REMARKED = {
    'subset': (
        both(classes('triangle', 'circle'), categories('circle', 'dog', 'triangle'),
             categories('circle', 'dog', 'triangle', path=VAL),
             content(annotations=[AGAIN, {**AGAIN, 'id': 2, 'category_id': 1}]),
             heads(bbox_head=outputs(2))),
        'background here, since no class of the config: dog (1 boxes). labels are counted in the '
        'order of the categories, which is not that of the classes: pictures, and those who use '
        'the checkpoint, get wrong names. Classes of the config: triangle, circle. Categories of '
        'the file: circle (1 boxes), dog (1 boxes), triangle (0 boxes)',
    ),
    'last classes not in training': (
        categories(*CLASSES[:3]),
        f'train_dataloader.dataset: {TRAIN}: there is no category star, cross. Classes of the conf',
    ),
    'more outputs': (
        heads(bbox_head=outputs(80)),
        'model.roi_head.bbox_head.num_classes is 80, and the config has 5 classes: the other '
        'outputs are never trained, and a detection by one of them stops the evaluation',
    ),
    'left out': (
        content(annotations=[
            AGAIN, {**AGAIN, 'id': 2, 'bbox': [1, 1, 0, 5]}, {**AGAIN, 'id': 3, 'area': 0},
            {**AGAIN, 'id': 4, 'image_id': 7}, {**AGAIN, 'id': 5, 'bbox': [math.nan, 1, 9, 9]},
            {**AGAIN, 'id': 6, 'bbox': [200, 1, 9, 9]}, {**AGAIN, 'id': 7, 'ignore': 1},
        ]),
        'MMDetection leaves annotations out: 3 without a size of 1 pixel in their image, 1 with an '
        '"area" of 0, 1 of images that the file does not have',
    ),
    'nothing to evaluate with': (
        content(VAL, annotations=[]),
        f'val_dataloader.dataset: {VAL}: there are no boxes in it to evaluate with',
    ),
    'an id of 0': (annotation(VAL, id=0), 'the id of an annotation is 0, which the evaluation'),
}  # fmt: skip


@pytest.mark.parametrize('case', REMARKED)
def test_what_may_not_be_meant_is_remarked_upon(cfg, case):
    assert told(cfg) == ''
    harm, words = REMARKED[case]
    harm(cfg)
    assert words in told(cfg)


def test_remarks_are_logged_as_warnings(cfg):
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        check_train_config(cfg)
        assert records == []
        heads(bbox_head=outputs(80))(cfg)
        check_train_config(cfg)
    finally:
        logger.removeHandler(handler)
    (record,) = records
    assert record.levelno == logging.WARNING
    assert 'bbox_head.num_classes is 80' in record.getMessage()


def test_images_of_the_metric_that_the_data_do_not_have_are_remarked_upon(cfg):
    other_file(cfg)
    change(OTHER, lambda whole: whole['images'].extend({'id': id_, **SMALL} for id_ in (5, 6)))
    words = f'val_evaluator: {OTHER}: 2 of its images are not in the data set, and count as if'
    assert words in told(cfg)


@pytest.mark.parametrize(
    'fine',
    [
        annotation(iscrowd=None),  # training does not need it
        lambda cfg: cfg.train_dataloader.dataset.metainfo.update(classes=list(CLASSES)),
        lambda cfg: cfg.model.rpn_head.update(num_classes=1),
        heads(semantic_head=dict(num_classes=183)),
        heads(mask_head=dict(num_classes=1, class_agnostic=True)),
        both(heads(bbox_head=outputs(1)), lambda cfg: [
            cfg[f'{stage}_dataloader'].dataset.update(return_classes=True)
            for stage in ('train', 'val')
        ]),
        # An image twice, as in files that were joined.
        content(images=[{'id': 0, **SMALL}] * 2),
        lambda cfg: cfg.train_dataloader.dataset.update(type='CityscapesDataset'),
        lambda cfg: cfg.update(TRAIN_ONLY),
        content(VAL, categories=[
            {'id': 10 * id_, 'name': name} for id_, name in enumerate(CLASSES, start=1)
        ], annotations=[{**AGAIN, 'category_id': 20}]),
    ],
)  # fmt: skip
def test_what_trains_as_meant_passes_without_a_word(cfg, fine):
    fine(cfg)
    assert told(cfg) == ''


def in_wrappers(dataset):
    joined = dict(type='ConcatDataset', datasets=[dataset])
    return dict(
        type='RepeatDataset', times=2, dataset=dict(type='ClassBalancedDataset', dataset=joined)
    )


def test_wrapped_data_sets_are_compared_too(cfg):
    cfg.train_dataloader.dataset = ConfigDict(in_wrappers(cfg.train_dataloader.dataset))
    assert told(cfg) == ''
    categories(*MISSPELT)(cfg)
    with pytest.raises(ValueError, match="no category 'square', but 'Square'"):
        check_train_config(cfg)


def test_one_of_several_files_may_be_without_annotations(cfg):
    other = TRAIN.with_name('unlabeled.json')
    other.write_bytes(TRAIN.read_bytes())
    change(other, lambda whole: whole.pop('annotations'))
    dataset = cfg.train_dataloader.dataset
    two = [dataset, {**dataset, 'ann_file': 'annotations/unlabeled.json'}]
    cfg.train_dataloader.dataset = ConfigDict(type='ConcatDataset', datasets=two)
    assert told(cfg) == ''
    cfg.train_dataloader.dataset = two[1]
    with pytest.raises(ValueError, match=r'unlabeled.json: there is no "annotations" in it'):
        check_train_config(cfg)


def test_classes_of_a_class_of_ones_own_are_compared(cfg):
    class Cells(CocoDataset):
        METAINFO = dict(classes=('circle', 'squares'))  # noqa: RUF012

    DATASETS.register_module(module=Cells, force=True)
    for name in ('train', 'val'):
        cfg[f'{name}_dataloader'].dataset.update(type='Cells')
        del cfg[f'{name}_dataloader'].dataset['metainfo']
    with pytest.raises(ValueError, match="no category 'squares', but 'square'"):
        check_train_config(cfg)
    cfg.train_dataloader.dataset.type = Cells  # as in the new style
    with pytest.raises(ValueError, match="no category 'squares', but 'square'"):
        check_train_config(cfg)
    Cells.load_data_list = lambda self: []  # it reads its files in another way
    check_train_config(cfg)


def test_test_data_are_compared_with_the_config(cfg):
    check_test_config(cfg)
    categories(*SWAPPED, path=VAL)(cfg)
    check_test_config(cfg)
    categories(*MISSPELT, path=VAL)(cfg)
    with pytest.raises(ValueError, match=r"test_dataloader.dataset: .* 'square', but 'Square'"):
        check_test_config(cfg)


def test_boxes_are_counted_as_mmdetection_reads_them(cfg):
    rng = np.random.default_rng(0)

    def draw(id_):
        box = [*rng.integers(-90, 180, 2).tolist(), *rng.integers(-2, 60, 2).tolist()]
        box[rng.integers(4)] += rng.choice([0, 0.5, math.nan], p=[0.5, 0.4, 0.1])
        flags = rng.random(3) < 0.2
        return dict(
            id=id_, image_id=int(flags[0]) * 7, category_id=int(rng.integers(1, 6)), bbox=box,
            area=float(rng.choice([0, 0.5, 200])), iscrowd=int(flags[1]), ignore=int(flags[2]),
        )  # fmt: skip

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
