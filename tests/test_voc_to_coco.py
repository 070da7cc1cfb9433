import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).parents[1] / 'tools' / 'dataset_converters' / 'voc_to_coco.py'


def convert(*arguments):
    """Run the script, in this process: starting another one takes longer than all the rest."""
    command, status = [str(TOOL), *map(str, arguments)], 0
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as errors,
    ):
        patch.setattr(sys, 'argv', command)
        try:
            runpy.run_path(command[0], run_name='__main__')
        except SystemExit as stop:
            status = stop.code
    return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())


def voc_object(name, *corners, difficult=0):
    box = ''.join(
        f'<{corner}>{value}</{corner}>'
        for corner, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), corners, strict=True)
    )
    return (
        f'<object><name>{name}</name><difficult>{difficult}</difficult>'
        f'<bndbox>{box}</bndbox></object>'
    )


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / 'BCCD'
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (root / folder).mkdir(parents=True)
    contents = {
        'a': voc_object('WBC', 260, 177, 491, 376) + voc_object('RBC', 0, 1, 700, 480),
        'b': voc_object('RBC', 10, 10, 10, 10, difficult=1) + voc_object('RBC', 9, 9, 5, 20),
        'c': '',
    }
    for name, objects in contents.items():
        Image.new('RGB', (640, 480)).save(root / 'JPEGImages' / f'{name}.jpg')
        text = f'<annotation><size><width>1</width></size>{objects}</annotation>'
        (root / 'Annotations' / f'{name}.xml').write_text(text)
    (root / 'ImageSets' / 'Main' / 'train.txt').write_text('a\nb\n')
    (root / 'ImageSets' / 'Main' / 'val.txt').write_text('c -1\n\n')
    return root


def test_converts_both_splits(voc, tmp_path):
    done = convert(voc, tmp_path / 'coco')
    assert done.returncode == 0, done.stderr
    assert '2 images, 3 boxes; 1 without area left out' in done.stdout
    train = json.loads((tmp_path / 'coco/annotations/train.json').read_text())
    assert train['categories'] == [{'id': 1, 'name': 'RBC'}, {'id': 2, 'name': 'WBC'}]
    assert train['images'][0] == {'id': 0, 'file_name': 'a.jpg', 'width': 640, 'height': 480}
    assert [(a['image_id'], a['category_id'], a['bbox']) for a in train['annotations']] == [
        (0, 2, [259, 176, 232, 200]),
        (0, 1, [0, 0, 640, 480]),
        (1, 1, [9, 9, 1, 1]),
    ]
    assert [a['iscrowd'] for a in train['annotations']] == [0, 0, 1]
    assert train['annotations'][0]['area'] == 232 * 200
    assert sorted(path.name for path in (tmp_path / 'coco/train').iterdir()) == ['a.jpg', 'b.jpg']
    val = json.loads((tmp_path / 'coco/annotations/val.json').read_text())
    assert [image['file_name'] for image in val['images']] == ['c.jpg']
    assert val['annotations'] == []


def test_chosen_splits_and_classes(voc, tmp_path):
    done = convert(voc, tmp_path / 'coco', '--split', 'fit=train', '--classes', 'WBC')
    assert done.returncode == 0, done.stderr
    fit = json.loads((tmp_path / 'coco/annotations/fit.json').read_text())
    assert fit['categories'] == [{'id': 1, 'name': 'WBC'}]
    assert len(fit['annotations']) == 1
    assert not (tmp_path / 'coco/val').exists()


def no_image(voc):
    (voc / 'JPEGImages' / 'b.jpg').unlink()


def no_annotation(voc):
    (voc / 'Annotations' / 'b.xml').unlink()


def broken_annotation(voc):
    (voc / 'Annotations' / 'b.xml').write_text('<annotation><object>')


def no_corner(voc):
    (voc / 'Annotations' / 'b.xml').write_text(
        '<annotation><object><name>RBC</name></object></annotation>'
    )


def no_folder(voc):
    (voc / 'ImageSets').rename(voc / 'Sets')


@pytest.mark.parametrize(
    ('harm', 'options', 'words'),
    [
        (no_image, [], 'JPEGImages/b.* does not exist'),
        (no_annotation, [], 'b.xml does not exist, but an image set names it'),
        (broken_annotation, [], 'b.xml is not a VOC annotation'),
        (no_corner, [], 'b.xml is not a VOC annotation'),
        (no_folder, [], 'ImageSets/Main does not exist'),
        (None, ['--split', 'test'], 'test.txt does not exist; the image sets are: train, val'),
        (None, ['--classes', 'cell'], "no object is of class cell; there are ['RBC', 'WBC']"),
    ],
)
def test_wrong_input_is_told_and_leaves_nothing(voc, tmp_path, harm, options, words):
    if harm:
        harm(voc)
    done = convert(voc, tmp_path / 'coco', *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['BCCD']


def test_target_that_exists_is_left_alone(voc, tmp_path):
    done = convert(voc, voc)
    assert done.returncode == 2
    assert 'BCCD exists already' in done.stderr
    assert (voc / 'Annotations').is_dir()
