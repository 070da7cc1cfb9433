import io
import json
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'voc_to_coco.py'


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


def photograph(path, orientation=6):
    """A picture 640×480 as stored, half of it bright, which its EXIF tag turns to 480×640."""
    image = Image.new('RGB', (640, 480))
    image.paste((255, 255, 255), (0, 0, 320, 480))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def sample(folder, name, number, suffix='.jpg', images=None):
    """An image and its XML file, which know each other by a grey value and a box's corner."""
    for place in (folder / name, (images or folder) / name):
        place.parent.mkdir(parents=True, exist_ok=True)
    grey = Image.new('RGB', (100, 80), (number,) * 3)
    grey.save((images or folder) / f'{name}{suffix}')
    text = voc_object('cell', number, 1, 90, 70)
    (folder / f'{name}.xml').write_text(f'<annotation>{text}</annotation>')


def numbers(root, split):
    """The number in the image and in its boxes, by file name; they are to agree."""
    coco = json.loads((root / 'annotations' / f'{split}.json').read_text())
    boxes = {box['image_id']: box['bbox'][0] + 1 for box in coco['annotations']}
    assert len(boxes) == len(coco['annotations']) == len(coco['images'])
    found = {}
    for image in coco['images']:
        with Image.open(root / split / image['file_name']) as pixels:
            assert pixels.getpixel((50, 40))[0] == boxes[image['id']]
        found[image['file_name']] = boxes[image['id']]
    assert len(found) == len(coco['images'])
    return found


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
    assert '2 images, 3 boxes\n' in done.stdout
    assert '1 boxes without area left out: ' in done.stdout
    assert '1 boxes cut to their image: ' in done.stdout
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


def two_boxes(voc):
    text = voc_object('RBC', 1, 1, 30, 40).replace('</object>', '<bndbox></bndbox></object>')
    (voc / 'Annotations' / 'b.xml').write_text(f'<annotation>{text}</annotation>')


def no_class(voc):
    (voc / 'Annotations' / 'b.xml').write_text('<annotation><object></object></annotation>')


def no_folder(voc):
    (voc / 'ImageSets').rename(voc / 'Sets')


def other_xml(voc):
    (voc / 'Annotations' / 'b.xml').write_text('<project/>')


def not_a_number(voc):
    text = voc_object('RBC', 10, 'nan', 30, 40)
    (voc / 'Annotations' / 'b.xml').write_text(f'<annotation>{text}</annotation>')


def listed_twice(voc):
    (voc / 'ImageSets' / 'Main' / 'train.txt').write_text('a\nb\na\n')


def list_of_nothing(voc):
    (voc / 'ImageSets' / 'Main' / 'train.txt').write_text('\n')


def list_in_utf_16(voc):
    (voc / 'ImageSets' / 'Main' / 'train.txt').write_text('a\nb\n', 'utf-16')


def outside(voc):
    (voc / 'ImageSets' / 'Main' / 'train.txt').write_text('../Annotations/a\n')


def two_images(voc):
    Image.new('RGB', (640, 480)).save(voc / 'JPEGImages' / 'b.png')


def truncated(voc):
    path = voc / 'JPEGImages' / 'b.jpg'
    path.write_bytes(path.read_bytes()[:-1000])


def no_picture(voc):
    (voc / 'JPEGImages' / 'b.jpg').write_text('text')


def annotated_as_stored(voc):
    photograph(voc / 'JPEGImages' / 'b.jpg')
    text = '<size><width>640</width><height>480</height></size>'
    (voc / 'Annotations' / 'b.xml').write_text(f'<annotation>{text}</annotation>')


@pytest.mark.parametrize(
    ('harm', 'options', 'words'),
    [
        (no_image, [], 'there is no image for '),
        (no_image, [], 'Annotations/b.xml: b.* does not exist among the images'),
        (
            no_annotation,
            [],
            'train.txt lists b, but there is no such annotation: b.xml does not ex',
        ),
        (broken_annotation, [], 'b.xml is not a VOC annotation'),
        (no_corner, [], 'b.xml is not a VOC annotation: an object has no <bndbox/xmin>'),
        (two_boxes, [], "an object of class 'RBC' has more than one <bndbox>"),
        (no_class, [], 'b.xml is not a VOC annotation: an object has no <name>'),
        (no_folder, [], 'ImageSets/Main does not exist, nor are there XML files in '),
        (no_folder, [], 'Annotations/train: nothing says which images belong to'),
        (no_folder, [], 'or split at random: --split-ratio 0.8 0.2'),
        (other_xml, [], 'b.xml is not a VOC annotation: it is a <project>'),
        (
            not_a_number,
            [],
            "b.xml is not a VOC annotation: ymin of an object of class 'RBC' is nan",
        ),
        (listed_twice, [], 'train.txt lists a more than once'),
        (list_of_nothing, [], 'train.txt lists no images'),
        (list_in_utf_16, [], 'train.txt is not UTF-8 text'),
        (outside, [], 'lists ../Annotations/a, but there is no such annotation'),
        (two_images, [], 'b.jpg and '),
        (two_images, [], 'b.png, and its <filename> is None. Keep one of them'),
        (truncated, [], 'JPEGImages/b.jpg can not be read: image file is truncated'),
        (no_picture, [], 'JPEGImages/b.jpg can not be read: cannot identify image file'),
        (annotated_as_stored, [], 'b.jpg is stored as 640×480 pixels, which its annotation has'),
        (None, ['--images', 'Pictures'], 'Pictures does not exist, or is not a folder'),
        (None, ['--annotations', 'ImageSets'], 'ImageSets has no XML files'),
        (None, ['--split', 'a=train', 'a=val'], '--split names a split more than once: a=train a'),
        (None, ['--split-ratio', '0.8'], 'one fraction for each split'),
        (None, ['--split-ratio', '0.8', '0.3'], 'above 0 that add up to 1, got 0.8 0.3'),
        (None, ['--split-ratio', '-0.5', '1.5'], 'above 0 that add up to 1, got -0.5 1.5'),
        (None, ['--split-ratio', 'nan', '1'], 'above 0 that add up to 1, got nan 1.0'),
        (None, ['--split-ratio', '0.9', '0.1'], 'leaves a split without images: there are 3'),
        (
            None,
            ['--split', 'train=a', '--split-ratio', '1'],
            'then have no image sets: got 1 fractions for train=a',
        ),
        (None, ['--split', 'test'], 'test.txt does not exist; the image sets are: train, val'),
        (None, ['--classes', 'cell'], "no object is of class cell; there are ['RBC', 'WBC']"),
    ],
)
def test_wrong_input_is_reported_and_leaves_nothing(voc, tmp_path, harm, options, words):
    if harm:
        harm(voc)
    done = convert(voc, tmp_path / 'coco', *options)
    assert done.returncode == (2 if done.stderr.startswith('usage: ') else 1)
    assert words in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['BCCD']


def test_target_that_exists_is_left_alone(voc, tmp_path):
    done = convert(voc, voc)
    assert done.returncode == 1
    assert 'BCCD exists already' in done.stderr
    assert (voc / 'Annotations').is_dir()


def test_names_are_names(tmp_path):
    root = tmp_path / 'set'
    names = ['scene', 'scene.2', 'img[1]', 'img1', 'frame 1', 'frame 2', 'day1/a', 'day2/a', 'ü*']
    for number, name in enumerate(names, start=10):
        sample(root / 'Annotations', name, number, images=root / 'JPEGImages')
    (root / 'JPEGImages' / 'scene.json').write_text('{}')
    (root / 'JPEGImages' / 'img1.bak.jpg').write_text('no image')
    lists = root / 'ImageSets' / 'Main'
    lists.mkdir(parents=True)
    (lists / 'train.txt').write_text('\ufeff' + '\n'.join(names), 'utf-8')
    done = convert(root, tmp_path / 'coco', '--split', 'train')
    assert done.returncode == 0, done.stderr
    assert '1 images have no annotation and are left out: img1.bak' in done.stdout
    assert numbers(tmp_path / 'coco', 'train') == {
        f'{name}.jpg': number for number, name in enumerate(names, start=10)
    }


def test_second_column_of_a_list_is_no_part_of_names_that_have_spaces(tmp_path):
    root = tmp_path / 'set'
    for number, name in enumerate(['frame 1', 'frame 2'], start=10):
        sample(root / 'Annotations', name, number, images=root / 'JPEGImages')
    lists = root / 'ImageSets' / 'Main'
    lists.mkdir(parents=True)
    (lists / 'cell_train.txt').write_text('frame 1  1\nframe 2 -1\n')
    done = convert(root, tmp_path / 'coco', '--split', 'train=cell_train')
    assert done.returncode == 0, done.stderr
    assert numbers(tmp_path / 'coco', 'train') == {'frame 1.jpg': 10, 'frame 2.jpg': 11}


def test_the_xml_file_chooses_between_two_images_of_its_name(voc, tmp_path):
    Image.new('RGB', (64, 48)).save(voc / 'JPEGImages' / 'b.png')
    text = f'<filename>b.png</filename>{voc_object("RBC", 1, 1, 30, 40)}'
    (voc / 'Annotations' / 'b.xml').write_text(f'<annotation>{text}</annotation>')
    assert convert(voc, tmp_path / 'coco').returncode == 0
    train = json.loads((tmp_path / 'coco/annotations/train.json').read_text())
    assert [(image['file_name'], image['width']) for image in train['images']] == [
        ('a.jpg', 640),
        ('b.png', 64),
    ]


def test_images_in_two_splits_are_reported(voc, tmp_path):
    (voc / 'ImageSets' / 'Main' / 'val.txt').write_text('c\nb\n')
    done = convert(voc, tmp_path / 'coco')
    assert done.returncode == 0
    assert "1 images are in 'train' and in 'val'" in done.stdout


@pytest.mark.parametrize('layout', ['one folder', 'two folders'])
def test_random_split_of_folders_without_image_sets(tmp_path, layout):
    root, options = tmp_path / 'set', ['--split-ratio', '0.7', '0.3']
    if layout == 'two folders':
        options += ['--annotations', 'labels', '--images', 'photos']
    for number in range(10, 20):
        if layout == 'two folders':
            sample(root / 'labels', f'x{number}', number, '.png', root / 'photos')
        else:
            sample(root, f'x{number}', number, '.png')
    (root / '.cache').mkdir()
    (root / '.cache' / 'settings.xml').write_text('<settings/>')
    for name, seed in (('one', '1'), ('again', '1'), ('other', '2')):
        done = convert(root, tmp_path / name, *options, '--seed', seed)
        assert done.returncode == 0, done.stderr
        parts = [numbers(tmp_path / name, split) for split in ('train', 'val')]
        assert [len(part) for part in parts] == [7, 3]
        assert {**parts[0], **parts[1]} == {f'x{number}.png': number for number in range(10, 20)}
    texts = {
        name: (tmp_path / name / 'annotations/val.json').read_text()
        for name in ('one', 'again', 'other')
    }
    assert texts['one'] == texts['again'] != texts['other']


def test_split_by_folders_without_image_sets(tmp_path):
    for number, name in enumerate(['train/a', 'train/b', 'train2/c', 'test/a'], start=10):
        sample(tmp_path / 'set', name, number)
    done = convert(tmp_path / 'set', tmp_path / 'coco', '--split', 'train', 'val=test')
    assert done.returncode == 0, done.stderr
    assert '1 annotations are in none of the splits and are left out: train2/c\n' in done.stdout
    assert numbers(tmp_path / 'coco', 'train') == {'train/a.jpg': 10, 'train/b.jpg': 11}
    assert numbers(tmp_path / 'coco', 'val') == {'test/a.jpg': 13}


def test_sizes_are_those_that_training_sees(voc, tmp_path):
    photograph(voc / 'JPEGImages' / 'b.jpg')
    text = '<size><width>480</width><height>640</height></size>'
    text += voc_object('RBC', 1, 321, 480, 640)
    (voc / 'Annotations' / 'b.xml').write_text(f'<annotation>{text}</annotation>')
    assert convert(voc, tmp_path / 'coco').returncode == 0
    train = json.loads((tmp_path / 'coco/annotations/train.json').read_text())
    image = train['images'][1]
    assert (image['width'], image['height']) == (480, 640)
    assert train['annotations'][-1]['bbox'] == [0, 320, 480, 320]
    pixels = LoadImageFromFile()({'img_path': str(tmp_path / 'coco/train/b.jpg')})['img']
    assert pixels.shape == (640, 480, 3)
    assert pixels[:300].min() > 200  # turned, so that the bright half lies above the box
    assert pixels[340:].max() < 50


def test_images_of_another_size_than_their_annotation_says_are_reported(voc, tmp_path):
    for name, width in (('a', 640), ('b', 320)):
        size = f'<size><width>{width}</width><height>480</height></size>'
        text = f'<annotation>{size}{voc_object("RBC", 1, 1, 30, 40)}</annotation>'
        (voc / 'Annotations' / f'{name}.xml').write_text(text)
    done = convert(voc, tmp_path / 'coco')
    assert done.returncode == 0, done.stderr
    place = voc / 'Annotations' / 'b.xml'
    assert '1 images are of another size than their annotation says' in done.stdout
    assert f'boxes are in wrong places: {place}\n' in done.stdout


def test_an_empty_target_is_filled(voc, tmp_path):
    (tmp_path / 'coco').mkdir()
    assert convert(voc, tmp_path / 'coco').returncode == 0
    assert sorted(path.name for path in (tmp_path / 'coco').iterdir()) == [
        'annotations',
        'train',
        'val',
    ]
