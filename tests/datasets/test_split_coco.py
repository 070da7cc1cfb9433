"""Parts of a COCO file have different images, with all their boxes, drawn by the seed."""

import json
import runpy
import sys

import pytest
from detection import ROOT

SCRIPT = ROOT / 'tools/dataset_converters/split_coco.py'


@pytest.fixture
def source(tmp_path):
    """Ten images, of which image n has n boxes."""
    images = [{'id': 100 + n, 'file_name': f'{n}.jpg', 'width': 8, 'height': 8} for n in range(10)]
    boxes = [
        dict(id=10 * n + k, image_id=100 + n, category_id=1, bbox=[0, 0, 4, 4], area=16, iscrowd=0)
        for n in range(10)
        for k in range(n)
    ]
    content = dict(info='kept', images=images, annotations=boxes, categories=[dict(id=1, name='a')])
    (tmp_path / 'train.json').write_text(json.dumps(content))
    return tmp_path / 'train.json'


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name='__main__')


def test_parts_have_different_images_with_all_their_boxes(source, monkeypatch, capsys):
    run(monkeypatch, source, 'fit=6', 'tune=3')
    said = capsys.readouterr().out
    seen = set()
    for name, count in (('fit', 6), ('tune', 3)):
        part = json.loads(source.with_name(f'{name}.json').read_text())
        ids = [image['id'] for image in part['images']]
        assert ids == sorted(ids)
        assert len(ids) == count
        assert not seen & set(ids)
        seen |= set(ids)
        assert len(part['annotations']) == sum(id_ - 100 for id_ in ids)
        assert {box['image_id'] for box in part['annotations']} == {id_ for id_ in ids if id_ > 100}
        assert part['info'] == 'kept'
        assert f'{name}.json: {count} images, {len(part["annotations"])} boxes' in said


def test_an_image_that_is_listed_twice_is_one_image(source, monkeypatch):
    content = json.loads(source.read_text())
    source.write_text(json.dumps({**content, 'images': content['images'] * 2}))
    run(monkeypatch, source, 'fit=6', 'tune=4')
    parts = [json.loads(source.with_name(f'{name}.json').read_text()) for name in ('fit', 'tune')]
    ids = [image['id'] for part in parts for image in part['images']]
    assert sorted(ids) == list(range(100, 110))


def test_the_seed_decides(source, monkeypatch):
    found = []
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        run(monkeypatch, source, f'{name}=5', '--seed', seed)
        part = json.loads(source.with_name(f'{name}.json').read_text())
        found.append([image['id'] for image in part['images']])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ('arguments', 'status', 'words'),
    [
        (['train.json', 'fit'], '2', "a part is NAME=IMAGES, such as few=24, got 'fit'"),
        (['train.json', 'fit=0'], '2', "got 'fit=0'"),
        (['train.json', '../fit=1'], '2', "got '../fit=1'"),
        (['train.json', 'fit=1', 'fit=2'], '2', 'each part needs a name of its own, got fit, fit'),
        (['no.json', 'fit=1'], '1', 'FileNotFoundError: The annotation file no.json does not'),
        (['train.json', 'fit=8', 'tune=3'], '1', 'parts have 11 images, but the file has 10'),
        (['train.json', 'train=3'], '1', 'FileExistsError: train.json exists; remove it'),
        (['list.json', 'fit=1'], '1', 'list.json is not a COCO annotation file'),
        (['cut.json', 'fit=1'], '1', 'cut.json is not a COCO annotation file'),
        (['bare.json', 'fit=1'], '1', 'bare.json has no "annotations"'),
    ],
)
def test_wrong_input_is_told_and_writes_nothing(
    source, monkeypatch, capsys, arguments, status, words
):
    monkeypatch.chdir(source.parent)
    for name, text in (
        ('list', '[]'),
        ('cut', source.read_text()[:40]),
        ('bare', '{"images": [], "categories": []}'),
    ):
        source.with_name(f'{name}.json').write_text(text)
    before = {path: path.read_bytes() for path in source.parent.iterdir()}
    with pytest.raises(SystemExit, match=status):
        run(monkeypatch, *arguments)
    assert words in ' '.join(capsys.readouterr().err.split())
    assert {path: path.read_bytes() for path in source.parent.iterdir()} == before
