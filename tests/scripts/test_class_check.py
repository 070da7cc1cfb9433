"""Classes of a config beside its annotation files: refused, remarked upon, or passed."""

import logging
import math
import re
from copy import deepcopy

import pytest
from annotations import (
    AGAIN,
    MISSPELT,
    OTHER,
    SMALL,
    SWAPPED,
    TRAIN,
    VAL,
    annotation,
    both,
    categories,
    change,
    classes,
    content,
    heads,
    other_file,
    outputs,
    remarked,
    several,
)
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger

from mmwau.datasets.shapes import CLASSES
from mmwau.scripts.preflight import check_test_config, check_train_config

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
        'val_evaluator: the classes do not fit data/demo/annotations/instances_val.json: the file '
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
    'only crowds': (annotation(iscrowd=1), 'none is left: they are crowds, or of other classes'),
    'other images': (
        annotation(image_id='0'),
        'none is left: 1 of images that the file does not have',
    ),
    'other file for the metric': (
        both(other_file, content(VAL, images=[{'id': 9, **SMALL}])),
        'does not have all images of the data set, whose file is',
    ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_goes_wrong_is_refused(cfg, case):
    harm, words = REFUSED[case]
    harm(cfg)
    with pytest.raises(ValueError, match=re.escape(words)):
        check_train_config(cfg)


@pytest.mark.parametrize('text', ['cat', 'circle'])
def test_one_string_for_the_classes_is_refused(cfg, text):
    classes(*CLASSES)(cfg)
    cfg.train_dataloader.dataset.metainfo.classes = text
    with pytest.raises(
        TypeError, match=re.escape(f"got '{text}'. A tuple of one name needs a comma")
    ):
        check_train_config(cfg)


REMARKED = {
    'subset': (
        both(
            classes('triangle', 'circle'),
            categories('circle', 'dog', 'triangle'),
            categories('circle', 'dog', 'triangle', path=VAL),
            content(annotations=[AGAIN, {**AGAIN, 'id': 2, 'category_id': 1}]),
            heads(bbox_head=outputs(2)),
        ),
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
        content(
            annotations=[
                AGAIN,
                {**AGAIN, 'id': 2, 'bbox': [1, 1, 0, 5]},
                {**AGAIN, 'id': 3, 'area': 0},
                {**AGAIN, 'id': 4, 'image_id': 7},
                {**AGAIN, 'id': 5, 'bbox': [math.nan, 1, 9, 9]},
                {**AGAIN, 'id': 6, 'bbox': [200, 1, 9, 9]},
                {**AGAIN, 'id': 7, 'ignore': 1},
            ]
        ),
        'MMDetection leaves annotations out: 3 without a size of 1 pixel in their image, 1 with an '
        '"area" of 0, 1 of images that the file does not have',
    ),
    'nothing to evaluate with': (
        content(VAL, annotations=[]),
        f'val_dataloader.dataset: {VAL}: there are no boxes in it to evaluate with',
    ),
    'an id of 0': (annotation(VAL, id=0), 'the id of an annotation is 0, which the evaluation'),
}


@pytest.mark.parametrize('case', REMARKED)
def test_what_may_not_be_meant_is_remarked_upon(cfg, case):
    assert remarked(cfg) == ''
    harm, words = REMARKED[case]
    harm(cfg)
    assert words in remarked(cfg)


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
    assert words in remarked(cfg)


@pytest.mark.parametrize(
    'fine',
    [
        annotation(iscrowd=None),  # training does not need it
        lambda cfg: cfg.train_dataloader.dataset.metainfo.update(classes=list(CLASSES)),
        lambda cfg: cfg.model.rpn_head.update(num_classes=1),
        heads(semantic_head=dict(num_classes=183)),
        heads(mask_head=dict(num_classes=1, class_agnostic=True)),
        both(
            heads(bbox_head=outputs(1)),
            lambda cfg: [
                cfg[f'{stage}_dataloader'].dataset.update(return_classes=True)
                for stage in ('train', 'val')
            ],
        ),
        # An image twice, as in files that were joined.
        content(images=[{'id': 0, **SMALL}] * 2),
        lambda cfg: cfg.train_dataloader.dataset.update(type='CityscapesDataset'),
        # A metric that only writes files.
        both(
            other_file,
            content(OTHER, images=[], annotations=[]),
            lambda cfg: cfg.val_evaluator.update(format_only=True),
        ),
        lambda cfg: cfg.update(val_dataloader=None, val_evaluator=None, val_cfg=None),
        content(
            VAL,
            categories=[
                {'id': 10 * id_, 'name': name} for id_, name in enumerate(CLASSES, start=1)
            ],
            annotations=[{**AGAIN, 'category_id': 20}],
        ),
    ],
)
def test_what_trains_as_meant_passes_without_a_word(cfg, fine):
    fine(cfg)
    assert remarked(cfg) == ''


def in_wrappers(dataset):
    joined = dict(type='ConcatDataset', datasets=[dataset])
    return dict(
        type='RepeatDataset', times=2, dataset=dict(type='ClassBalancedDataset', dataset=joined)
    )


def test_wrapped_data_sets_are_compared_too(cfg):
    cfg.train_dataloader.dataset = ConfigDict(in_wrappers(cfg.train_dataloader.dataset))
    assert remarked(cfg) == ''
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
    assert remarked(cfg) == ''
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
