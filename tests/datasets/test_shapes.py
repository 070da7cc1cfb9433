import json

import numpy as np
import pytest
from PIL import Image

from mmwau.datasets.shapes import CLASSES, draw_image, draw_map, make_shapes


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes') / 'demo'
    make_shapes(root, {'train': 12, 'val': 6}, image_size=96, seed=1)
    return root


def test_is_a_coco_data_set_that_pycocotools_reads(root):
    from pycocotools.coco import COCO

    coco = COCO(str(root / 'annotations' / 'instances_train.json'))
    assert [category['name'] for category in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.getImgIds()) == 12
    for info in coco.loadImgs(coco.getImgIds()):
        with Image.open(root / 'train' / info['file_name']) as image:
            assert image.size == (info['width'], info['height']) == (96, 96)
        annotations = coco.loadAnns(coco.getAnnIds(info['id']))
        assert 1 <= len(annotations) <= 6
        for annotation in annotations:
            x, y, width, height = annotation['bbox']
            assert x >= 0
            assert y >= 0
            assert x + width <= 96
            assert y + height <= 96
            assert annotation['area'] == pytest.approx(width * height, rel=1e-2)
            assert annotation['iscrowd'] == 0


def test_boxes_are_where_the_shapes_are():
    plain, _ = draw_image(np.random.default_rng(5), 128)
    image, objects = draw_image(np.random.default_rng(5), 128)
    assert np.array_equal(np.asarray(plain), np.asarray(image))
    for seed in range(30):
        image, objects = draw_image(np.random.default_rng(seed), 128)
        pixels = np.asarray(image).astype(int)
        _, (left, top, right, bottom), _ = objects[-1]  # the last shape covers the others
        middle = pixels[int(top + bottom) // 2, int(left + right) // 2]
        same = (np.abs(pixels - middle).max(axis=2) == 0).nonzero()
        assert abs(same[0].min() - top) < 4
        assert abs(same[0].max() - bottom) < 4
        assert abs(same[1].min() - left) < 4
        assert abs(same[1].max() - right) < 4


def test_maps_and_outlines_are_where_the_shapes_are(root):
    content = json.loads((root / 'annotations' / 'instances_val.json').read_text())
    for info in content['images']:
        labels = np.asarray(Image.open(root / f'maps/val/{info["id"]:06d}.png'))
        assert labels.shape == (96, 96)
        mine = [a for a in content['annotations'] if a['image_id'] == info['id']]
        assert set(np.unique(labels)) == {0, *(a['category_id'] for a in mine)}
        for annotation in mine:
            (outline,) = annotation['segmentation']
            xs, ys = outline[::2], outline[1::2]
            left, top, width, height = annotation['bbox']
            assert (min(xs), min(ys)) == pytest.approx((left, top), abs=0.02)
            assert (max(xs), max(ys)) == pytest.approx((left + width, top + height), abs=0.02)


def test_a_map_has_the_class_of_what_is_seen():
    image, shapes = draw_image(np.random.default_rng(5), 128)
    pixels, labels = np.asarray(image).astype(int), np.asarray(draw_map(shapes, 128))
    category, (left, top, right, bottom), _ = shapes[-1]
    y, x = int(top + bottom) // 2, int(left + right) // 2
    same = np.abs(pixels - pixels[y, x]).max(axis=2) == 0
    assert set(labels[same]) == {category + 1}
    # Pixels at its edges are of mixed colours.
    alone = np.asarray(draw_map(shapes[-1:], 128))
    assert set(np.unique(alone)) == {0, category + 1}
    assert same[alone > 0].mean() > 0.8


def test_same_seed_same_images_and_splits_differ(root, tmp_path):
    make_shapes(tmp_path / 'again', {'val': 2, 'train': 3}, image_size=96, seed=1)
    make_shapes(tmp_path / 'other', {'train': 3}, image_size=96, seed=2)
    first = (root / 'train' / '000000.jpg').read_bytes()
    assert first == (tmp_path / 'again' / 'train' / '000000.jpg').read_bytes()
    assert first != (tmp_path / 'other' / 'train' / '000000.jpg').read_bytes()
    assert first != (root / 'val' / '000000.jpg').read_bytes()
    again = json.loads((tmp_path / 'again/annotations/instances_train.json').read_text())
    whole = json.loads((root / 'annotations/instances_train.json').read_text())
    assert again['annotations'] == [a for a in whole['annotations'] if a['image_id'] < 3]


def test_folder_that_exists_is_left_alone(root):
    with pytest.raises(FileExistsError, match=r'demo exists already and is not an empty'):
        make_shapes(root)


def test_nothing_half_done_is_left_behind(tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmwau.datasets.shapes.draw_image', fail)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / 'demo')
    assert list(tmp_path.iterdir()) == []


def test_small_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match='image_size must be at least 64 pixels, got 32'):
        make_shapes(tmp_path / 'demo', image_size=32)
