import numpy as np
import pytest
from PIL import Image

from mmwau.reporting.plots import (
    CLASS_COLOURS,
    COLOURS,
    plot_detections,
    plot_overlap,
    plot_overlap_curve,
    styles,
)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert('RGB')).astype(int)


def has_colour(picture, colour, at_least):
    near = np.abs(picture - np.multiply(colour, 255)).max(axis=2) < 8
    return near.sum() >= at_least


def test_the_first_look_is_grey_and_after_eight_they_come_again():
    looks = list(styles('abcdefghij').values())
    assert looks[0]['color'] == COLOURS[0]
    assert looks[8:] == looks[:2]
    assert len({tuple(look.items()) for look in looks}) == 8


@pytest.mark.parametrize('num_images', [1, 3, 8])
def test_detections_show_the_images_and_the_boxes_above_the_score(tmp_path, num_images):
    image = np.full((60, 80, 3), (10, 90, 10), dtype=np.uint8)
    sample = {
        'image': image,
        'boxes': [(5, 20, 30, 50), (40, 20, 70, 50)],
        'labels': [0, 2],
        'scores': [0.9, 0.1],
        'truth': [(6, 21, 29, 51)],
    }
    plot_detections([sample] * num_images, ['disc', 'ring'], tmp_path / 'detections.png')
    picture = pixels(tmp_path / 'detections.png')
    assert has_colour(picture, np.divide((10, 90, 10), 255), at_least=20_000 * num_images)
    assert has_colour(picture, CLASS_COLOURS[0], at_least=300)
    assert not has_colour(picture, CLASS_COLOURS[2], at_least=1)


def test_overlap_has_a_mark_for_each_measurement_and_one_for_random_filters(tmp_path):
    start = {f'backbone.layer{index}': 0.02 * index for index in range(1, 8)}
    end = {name: value + 0.05 for name, value in start.items()}
    # Far to the right of all measurements, in the black that only its tick marks have there.
    random = dict.fromkeys(start, 0.6)
    plot_overlap({'start': start, 'end': end}, random, tmp_path / 'overlap.png')
    picture = pixels(tmp_path / 'overlap.png')
    assert has_colour(picture, np.divide((0x9A, 0x9A, 0x9A), 255), at_least=100)
    assert has_colour(picture, np.divide((0x00, 0x72, 0xB2), 255), at_least=100)
    columns = (picture.max(axis=2) < 8).sum(axis=0)[picture.shape[1] * 3 // 4 :]
    assert columns.max() > 7 * 10  # one above the other, one for each layer


def test_curves_of_network_and_stages_can_be_told_apart(tmp_path):
    stages = {f'stage_overlap/backbone.layer{index}': 0.02 + 0.01 * index for index in range(1, 7)}
    points = [{'step': step, 'overlap': 0.1, **stages} for step in (0, 50, 100)]
    # A stage that was measured only later on, as after a change of targets.
    points[2]['stage_overlap/neck'] = 0.01
    plot_overlap_curve(points, 0.05, tmp_path / 'curve.png')
    picture = pixels(tmp_path / 'curve.png')
    for colour in COLOURS[1:7]:
        rgb = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        assert has_colour(picture, rgb, at_least=300), colour
    assert has_colour(picture, (0, 0, 0), at_least=3000)  # the network's thick line
    assert has_colour(picture, np.divide((0x70, 0x70, 0x70), 255), at_least=100)
