"""Recipes of MMSegmentation, MMRotate and MMPose: what is drawn for them, and one of each trained.

Those of a project that is not installed are skipped.
"""

import json

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmwau.compatibility import recipes
from mmwau.compatibility.data import SIDE, make_data
from mmwau.compatibility.recipes import choose_recipe, find_families, installed_projects, prepare
from mmwau.compatibility.rotated import draw_rotated
from mmwau.compatibility.segmentation import drawn_segmentation
from mmwau.compatibility.trial import explain, try_recipe
from mmwau.datasets.shapes import CLASSES, make_shapes

PROJECTS = ('mmseg', 'mmrotate', 'mmpose')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('projects') / 'data')


def skip_without(project):
    pytest.importorskip(project, reason=f'{project} is an extra')


def test_rectangles_are_around_the_shapes(tmp_path):
    make_shapes(tmp_path, {'train': 6}, progress=False)
    draw_rotated(tmp_path)
    content = json.loads((tmp_path / 'annotations' / 'instances_train.json').read_text())
    for image in content['images']:
        lines = (tmp_path / 'rotated' / f'{image["id"]:06d}.txt').read_text().splitlines()
        shapes = [a for a in content['annotations'] if a['image_id'] == image['id']]
        assert len(lines) == len(shapes) > 0
        for line, shape in zip(lines, shapes, strict=True):
            *corners, name, difficulty = line.split()
            assert (name, difficulty) == (CLASSES[shape['category_id'] - 1], '0')
            corners = np.float32(corners).reshape(4, 2)
            outline = np.float32(shape['segmentation'][0]).reshape(-1, 2)
            for point in outline.tolist():
                assert cv2.pointPolygonTest(corners, point, measureDist=True) > -0.05
            # And not much larger: a triangle has half of its rectangle, the others have more.
            hull = cv2.contourArea(cv2.convexHull(outline))
            assert hull < 1.001 * cv2.contourArea(corners) < 2.05 * hull


@pytest.mark.parametrize(('num_classes', 'drawn'), [(150, 6), (6, 6), (5, 2), (2, 2)])
def test_maps_have_no_more_classes_than_a_recipe(num_classes, drawn, data):
    dataset = drawn_segmentation(dict(pipeline=[]), data, num_classes)
    assert len(dataset['metainfo']['classes']) == num_classes
    folder = data / 'detection' / dataset['data_prefix']['seg_map_path']
    labels = {label for path in folder.iterdir() for label in np.unique(Image.open(path))}
    assert labels == set(range(drawn))


def test_a_recipe_that_leaves_out_label_0_has_it_left_out(data):
    steps = [dict(type='LoadAnnotations', reduce_zero_label=True)]
    assert drawn_segmentation(dict(pipeline=steps), data, 150)['reduce_zero_label']


@pytest.mark.parametrize('project', PROJECTS)
def test_there_are_five_families_or_more(project):
    skip_without(project)
    families = find_families(project)
    assert len(families) >= 5
    assert not any(name.startswith('_base_') for name in families)


def test_a_recipe_of_segmentation_becomes_small_and_keeps_the_rest(data):
    skip_without('mmseg')
    recipe = choose_recipe('mmseg', 'fcn')
    before, cfg = Config.fromfile(recipe.path), prepare(recipe, data)
    assert cfg.model.data_preprocessor.size == (SIDE, SIDE)
    dataset = cfg.train_dataloader.dataset
    old = before.train_dataloader.dataset.pipeline
    assert [step.type for step in dataset.pipeline] == [step.type for step in old]
    assert len(dataset.metainfo.classes) == cfg.model.decode_head.num_classes == 19
    assert cfg.model.pretrained is None
    assert cfg.optim_wrapper.optimizer == before.optim_wrapper.optimizer


def test_poses_have_the_keypoints_of_their_data_set(data):
    skip_without('mmpose')
    cfg = prepare(choose_recipe('mmpose', 'hand_2d_keypoint/rtmpose'), data)
    dataset = cfg.train_dataloader.dataset
    content = json.loads((data / 'detection' / dataset.ann_file).read_text())
    assert [category['id'] for category in content['categories']] == [1]
    for annotation in content['annotations']:
        assert annotation['category_id'] == 1
        keypoints = np.reshape(annotation['keypoints'], (-1, 3))
        assert len(keypoints) == 21
        left, top, width, height = annotation['bbox']
        assert (keypoints[:, 0] >= left - 0.01).all()
        assert (keypoints[:, 0] <= left + width + 0.01).all()
        assert (keypoints[:, 1] >= top - 0.01).all()
        assert (keypoints[:, 1] <= top + height + 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('project', 'family', 'held', 'left_out'),
    [
        ('mmseg', 'fcn', 55, {}),
        ('mmrotate', 'rotated_retinanet', 50, {'frozen': 11}),
        ('mmpose', 'body_2d_keypoint/simcc', 52, {}),
    ],
)
def test_one_of_each_project_works(project, family, held, left_out, data, tmp_path):
    skip_without(project)
    record = try_recipe(choose_recipe(project, family), data, tmp_path)
    assert record.result == 'works', record.reason
    assert record.held == held
    assert record.left_out == left_out
    assert record.active == pytest.approx(record.filters, rel=0.01)
    assert record.moved > 0.9 * (record.active - record.without_gradient)
    assert 0 < record.skipping['out'] <= record.held
    assert record.skipping['layer'] == record.held


def test_a_project_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(recipes, 'find_spec', lambda name: None if name == 'mmdet' else name)
    assert installed_projects() == ['mmpretrain', *PROJECTS]


def test_a_package_that_a_config_imports_is_named():
    said = "Failed to import custom modules from {'imports': ['mmcls.models'], 'allow_failed"
    assert explain(ImportError(said)) == ('not tried', 'needs the package mmcls')
