import pickle
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpretrain.datasets import CIFAR10, CIFAR100
from PIL import Image

from mmwau.datasets.cifar import CIFARBatches

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'dataset_converters' / 'cifar_folders_to_batches.py'
TEN = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
HUNDRED = [f'class{number:02}' for number in range(100)]


convert = runpy.run_path(str(TOOL))['convert']


class UncheckedCIFAR10(CIFAR10):
    """MMPreTrain's reader without its checksums."""

    train_list = tuple((name, None) for name, _ in CIFAR10.train_list)
    test_list = tuple((name, None) for name, _ in CIFAR10.test_list)


class UncheckedCIFAR100(CIFAR100):
    train_list = tuple((name, None) for name, _ in CIFAR100.train_list)
    test_list = tuple((name, None) for name, _ in CIFAR100.test_list)


def run(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def pixels(label, number):
    """An image that shows what it is of: the first two red values are its label and number."""
    image = np.random.default_rng([label, number]).integers(0, 256, (32, 32, 3), np.uint8)
    image[0, :2, 0] = label, number
    return image


def make_folders(root, classes, train=3, test=1):
    for split, count in (('train', train), ('test', test)):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(pixels(label, number))
                image.save(root / split / name / f'{number:04}.png')
    return root


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp('ten')
    make_folders(root / 'folders', TEN, train=11, test=2)
    done = run(root / 'folders', root / 'out' / 'batches')
    assert done.returncode == 0, done.stderr
    assert '110 train, 20 test' in done.stdout
    assert 'Reading 110 images of train' in done.stdout
    assert '20/20' in done.stdout
    return root / 'out' / 'batches'


def test_every_image_is_there_once_with_its_label(converted):
    for split, count in (('train', 11), ('test', 2)):
        data = CIFARBatches(data_root=converted, split=split)
        assert data.metainfo['classes'] == tuple(TEN)
        found = set()
        for item in data:
            label, number = map(int, item['img'][0, :2, 0])
            assert item['gt_label'] == label
            assert np.array_equal(item['img'], pixels(label, number))
            found.add((label, number))
        assert found == {(label, number) for label in range(10) for number in range(count)}
        assert len(data) == len(found)


def test_first_images_are_a_fair_sample_in_an_order_that_repeats(converted, tmp_path):
    labels = [item['gt_label'] for item in CIFARBatches(data_root=converted, indices=50)]
    assert len(labels) == 50
    assert len(set(labels)) == 10
    assert labels != sorted(labels)
    make_folders(tmp_path / 'folders', TEN, train=11, test=2)
    for name, seed in (('again', 0), ('other', 1)):
        convert(tmp_path / 'folders', tmp_path / name, seed)
    first = 'cifar-10-batches-py/data_batch_1'
    assert (tmp_path / 'again' / first).read_bytes() == (converted / first).read_bytes()
    assert (tmp_path / 'other' / first).read_bytes() != (converted / first).read_bytes()


def test_files_are_those_that_mmpretrain_reads(converted):
    folder = converted / 'cifar-10-batches-py'
    batches = [*(f'data_batch_{number}' for number in range(1, 6)), 'test_batch']
    assert sorted(path.name for path in folder.iterdir()) == sorted([*batches, 'batches.meta'])
    for split in ('train', 'test'):
        ours = CIFARBatches(data_root=converted, split=split)
        theirs = UncheckedCIFAR10(data_root=str(converted), split=split, download=False)
        assert len(ours) == len(theirs)
        for one, two in zip(ours, theirs, strict=True):
            assert one['gt_label'] == two['gt_label']
            assert np.array_equal(one['img'], two['img'])
            assert one.keys() == two.keys()
    with pytest.raises(RuntimeError, match='Cannot find CIFAR10 dataset'):  # it has other bytes
        CIFAR10(data_root=str(converted), download=False)


def test_hundred_classes_become_cifar_100(tmp_path):
    make_folders(tmp_path / 'folders', HUNDRED, train=1)
    assert convert(tmp_path / 'folders', tmp_path / 'batches') == {'train': 100, 'test': 100}
    ours = CIFARBatches(data_root=tmp_path / 'batches', split='test')
    assert ours.metainfo['classes'] == tuple(HUNDRED)
    theirs = UncheckedCIFAR100(data_root=str(tmp_path / 'batches'), split='test', download=False)
    assert sorted(item['gt_label'] for item in ours) == list(range(100))
    assert [item['gt_label'] for item in ours] == [item['gt_label'] for item in theirs]


def test_a_folder_of_both_data_sets_is_refused(tmp_path, converted):
    make_folders(tmp_path / 'folders', HUNDRED, train=1)
    convert(tmp_path / 'folders', tmp_path / 'batches')
    (tmp_path / 'batches/cifar-10-batches-py').symlink_to(converted / 'cifar-10-batches-py')
    with pytest.raises(ValueError, match='has cifar-10-batches-py and cifar-100-python, and noth'):
        CIFARBatches(data_root=tmp_path / 'batches')


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(1, 5), min_size=6, max_size=6), seed=st.integers(0, 999))
def test_reads_batches_of_any_size_in_their_order(tmp_path_factory, sizes, seed):
    folder = tmp_path_factory.mktemp('any') / 'cifar-10-batches-py'
    folder.mkdir()
    rng, all_images, all_labels = np.random.default_rng(seed), [], []
    for number, size in enumerate(sizes, start=1):
        images = rng.integers(0, 256, (size, 3, 32, 32), np.uint8)
        labels = rng.integers(0, 10, size).tolist()
        content = {'data': images.reshape(size, 3072), 'labels': labels}
        name = 'test_batch' if number == 6 else f'data_batch_{number}'
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        if number < 6:
            all_images += list(images.transpose(0, 2, 3, 1))
            all_labels += labels
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': TEN}, protocol=2))
    data = CIFARBatches(data_root=folder.parent, serialize_data=False)
    assert [item['gt_label'] for item in data] == all_labels
    for item, image in zip(data, all_images, strict=True):
        assert np.array_equal(item['img'], image)
    test = CIFARBatches(data_root=folder.parent, split='test', serialize_data=False)
    assert len(test) == sizes[-1]


def test_missing_batches_are_reported_with_the_remedy(tmp_path):
    words = (
        'no cifar-10-batches-py/batches.meta or cifar-100-python/meta in .* '
        r'python tools/dataset_converters/cifar_folders_to_batches.py FOLDERS '
    )
    with pytest.raises(FileNotFoundError, match=words):
        CIFARBatches(data_root=tmp_path)
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        CIFARBatches(data_root=tmp_path, split='val')


def no_test(folders):
    (folders / 'test').rename(folders / 'val')


def one_class_less(folders):
    (folders / 'test' / 'ship').rename(folders / 'test' / 'boat')


def nine_classes(folders):
    for split in ('train', 'test'):
        (folders / split / 'ship').rename(folders / f'ship_{split}')


def no_images(folders):
    for path in (folders / 'train' / 'ship').iterdir():
        path.rename(path.with_suffix('.txt'))


def no_image(folders):
    (folders / 'train' / 'ship' / '0001.png').write_text('text')


def truncated(folders):
    path = folders / 'train' / 'ship' / '0001.png'
    path.write_bytes(path.read_bytes()[:1000])


def larger(folders):
    Image.new('RGB', (40, 32)).save(folders / 'train' / 'ship' / '0001.png')


@pytest.mark.parametrize(
    ('harm', 'error', 'words'),
    [
        (no_test, FileNotFoundError, 'folders/test does not exist'),
        (one_class_less, ValueError, 'only one of train/ and test/ has the classes boat, ship'),
        (nine_classes, ValueError, 'should have 10 or 100 classes, .* there are 9: airplane, '),
        (no_images, FileNotFoundError, r'train/ship has no images \(.jpg, .jpeg, .png\)'),
        (no_image, ValueError, 'train/ship/0001.png can not be read'),
        (truncated, ValueError, 'train/ship/0001.png can not be read'),
        (larger, ValueError, 'train/ship/0001.png is 40×32 pixels; images of CIFAR are 32×32'),
    ],
)
def test_wrong_input_is_reported_and_leaves_nothing(tmp_path, harm, error, words):
    folders = make_folders(tmp_path / 'folders', TEN, train=2)
    harm(folders)
    with pytest.raises(error, match=words):
        convert(folders, tmp_path / 'batches')
    assert [path.name for path in tmp_path.iterdir()] == ['folders']


def test_target_that_exists_is_left_alone(converted):
    before = {path: path.read_bytes() for path in converted.rglob('*') if path.is_file()}
    done = run(converted.parent, converted)
    assert done.returncode == 1
    assert 'batches exists already' in done.stderr
    assert before == {path: path.read_bytes() for path in converted.rglob('*') if path.is_file()}


def test_grey_images_and_jpegs_are_taken(tmp_path):
    folders = make_folders(tmp_path / 'folders', TEN, train=1)
    Image.new('L', (32, 32), 77).save(folders / 'train' / 'truck' / 'grey.JPG')
    convert(folders, tmp_path / 'batches')
    trucks = [item['img'] for item in CIFARBatches(tmp_path / 'batches') if item['gt_label'] == 9]
    assert any((image == 77).all() for image in trucks)


def test_grey_of_16_bits_is_scaled_and_not_cut(tmp_path):
    folders = make_folders(tmp_path / 'folders', TEN, train=1)
    values = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    Image.fromarray(values).save(folders / 'train' / 'truck' / 'deep.png')
    convert(folders, tmp_path / 'batches')
    trucks = [item['img'] for item in CIFARBatches(tmp_path / 'batches') if item['gt_label'] == 9]
    expected = np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    assert any(np.array_equal(image, expected) for image in trucks)
    # As OpenCV reads it, with which MMPreTrain would read the folders.
    assert np.array_equal(mmcv.imread(folders / 'train' / 'truck' / 'deep.png'), expected)


def test_photographs_are_turned_as_their_exif_tag_asks(tmp_path):
    folders = make_folders(tmp_path / 'folders', TEN, train=1)
    image = Image.new('RGB', (32, 32))
    image.paste((255, 255, 255), (0, 0, 16, 32))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folders / 'train' / 'truck' / 'turned.jpg', exif=exif, quality=100)
    convert(folders, tmp_path / 'batches')
    trucks = [item['img'] for item in CIFARBatches(tmp_path / 'batches') if item['gt_label'] == 9]
    seen = mmcv.imread(folders / 'train' / 'truck' / 'turned.jpg', channel_order='rgb')
    assert seen[:12].min() > 200 > 50 > seen[20:].max()
    assert any(np.abs(seen.astype(int) - image).max() < 3 for image in trucks)


def test_what_is_left_out_is_reported(tmp_path, capsys):
    folders = make_folders(tmp_path / 'folders', TEN, train=2)
    (folders / 'train' / 'cat' / 'more').mkdir()
    (folders / 'train' / 'cat' / '0001.png').rename(folders / 'train' / 'cat' / 'more' / '1.png')
    Image.new('RGB', (32, 32)).save(folders / 'train' / 'ship' / '9.bmp')
    Image.new('RGB', (32, 32)).save(folders / 'test' / 'alone.png')
    (folders / 'test' / '.hidden').mkdir()
    (folders / 'test' / 'ship' / '.thumbnails').write_text('')
    assert convert(folders, tmp_path / 'batches') == {'train': 19, 'test': 10}
    printed = capsys.readouterr().out
    assert 'train: left out, since images (.jpg, .jpeg, .png) are read only from the' in printed
    assert 'folders of the classes: cat/more/, ship/9.bmp\n' in printed
    assert 'folders of the classes: alone.png\n' in printed


def test_an_empty_target_is_filled_as_after_a_download_that_failed(tmp_path):
    folders = make_folders(tmp_path / 'folders', TEN, train=1)
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'disk')
    for target in (tmp_path / 'disk', tmp_path / 'link'):
        assert convert(folders, target) == {'train': 10, 'test': 10}
        assert len(CIFARBatches(target)) == 10
        if target.name == 'disk':
            shutil.rmtree(target / 'cifar-10-batches-py')
    assert (tmp_path / 'link').is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['disk', 'folders', 'link']
