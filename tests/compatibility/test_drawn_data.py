"""What is drawn for recipes of other kinds than detection and classification, as they read it."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS as OF_MMPRETRAIN

from mmwau.compatibility.data import NUM_IMAGES, NUM_THINGS, SIDE, make_data
from mmwau.compatibility.recipes import choose_recipe, prepare
from mmwau.compatibility.substitutes import bert_folder, clip_file, drawn_dataset
from mmwau.compatibility.trial import try_recipe
from mmwau.compatibility.videos import FRAMES, NUM_VIDEOS, PEOPLE, PICTURES
from mmwau.datasets.shapes import CLASSES


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('drawn') / 'data')


def bert_folder_or_skip(data):
    pytest.importorskip('transformers')
    return bert_folder(data)


def build(data, dataset, num_classes, project='mmdet', pipeline=()):
    init_default_scope(project)
    registry = DATASETS if project == 'mmdet' else OF_MMPRETRAIN
    own = dict(dataset, pipeline=list(pipeline))
    return registry.build(drawn_dataset(own, data, num_classes, project))


@pytest.mark.parametrize(
    ('own', 'num_classes'),
    [
        (dict(type='MOTChallengeDataset', visibility_thr=-1), 1),
        (dict(type='YouTubeVISDataset', dataset_version='2019'), 40),
    ],
)
def test_videos_show_the_same_objects_in_every_frame(own, num_classes, data):
    dataset = build(data, own, num_classes)
    assert len(dataset.metainfo['classes']) == num_classes
    videos = [dataset.get_data_info(index)['images'] for index in range(len(dataset))]
    assert [len(frames) for frames in videos] == [FRAMES] * NUM_VIDEOS
    tracks = []
    for frames in videos:
        assert [frame['frame_id'] for frame in frames] == list(range(FRAMES))
        seen = [{one['instance_id']: one['bbox'] for one in frame['instances']} for frame in frames]
        shared = set.intersection(*map(set, seen))
        assert shared
        tracks.append(shared)
        # The camera moves: to the right and down, so that shapes go to the left and up.
        assert all(seen[0][one][2] > seen[2][one][2] for one in shared if seen[0][one][2] < SIDE)
        assert all(0 <= x <= SIDE for boxes in seen for box in boxes.values() for x in box)
    assert not set.intersection(*tracks)


def test_crops_show_each_person_often_enough_for_triplets(data):
    own = dict(type='ReIDDataset', triplet_sampler=dict(num_ids=PEOPLE, ins_per_id=PICTURES))
    load = dict(type='TransformBroadcaster', transforms=[dict(type='LoadImageFromFile')])
    dataset = build(data, own, 380, pipeline=[load])
    assert len(dataset) == PEOPLE * PICTURES
    drawn = dataset[0]
    assert [image.shape for image in drawn['img']] == [(128, 64, 3)] * len(dataset)
    assert Counter(map(int, drawn['gt_label'])) == dict.fromkeys(range(PEOPLE), PICTURES)


def test_panoptic_maps_have_the_shapes_as_things(data):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadPanopticAnnotations')]
    dataset = build(data, dict(type='CocoPanopticDataset'), 80, pipeline=pipeline)
    assert len(dataset) == NUM_IMAGES
    content = json.loads((data / 'detection/annotations/instances_train.json').read_text())
    for index, image in enumerate(content['images']):
        shapes = [one for one in content['annotations'] if one['image_id'] == image['id']]
        loaded = dataset[index]
        assert len(loaded['gt_masks']) == len(shapes)
        classes = {one['category_id'] - 1 for one in shapes}
        assert set(np.unique(loaded['gt_seg_map'])) == classes | {NUM_THINGS}


def test_proposals_and_one_class(data):
    load = dict(type='LoadProposals', num_max_proposals=2000)
    own = dict(type='CocoDataset', proposal_file='from_a_tool.pkl')
    dataset = build(data, own, 80, pipeline=[load])
    assert len(dataset) == NUM_IMAGES
    proposals = dataset[0]['proposals']
    assert proposals.min() >= 0
    assert proposals.max() <= SIDE
    assert (proposals[:, 2:] > proposals[:, :2]).all()
    objects = build(data, dict(type='CrowdHumanDataset'), 1)
    counts = [len(objects.get_data_info(index)['instances']) for index in range(len(objects))]
    assert min(counts) >= 2


def test_boxes_with_the_names_of_their_classes(data):
    sample = dict(type='RandomSamplingNegPos', tokenizer_name=bert_folder_or_skip(data))
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), sample]
    dataset = build(data, dict(type='ODVGDataset', return_classes=True), 80, pipeline=load)
    assert len(dataset) == NUM_IMAGES
    first = dataset[0]
    assert set(first['text'].replace('.', ' ').split()) <= set(CLASSES)
    assert len(first['gt_bboxes']) == len(dataset.get_data_info(0)['instances'])


@pytest.mark.parametrize('kind', ['COCOCaption', 'COCORetrieval'])
def test_captions_name_what_is_drawn(kind, data):
    pytest.importorskip('transformers')  # MMPreTrain leaves these data sets out without it
    dataset = build(data, dict(type=kind), 80, 'mmpretrain', [dict(type='LoadImageFromFile')])
    assert len(dataset) == NUM_IMAGES
    first = dataset[0]
    assert first['img'].shape == (SIDE, SIDE, 3)
    text = first['gt_caption'] if kind == 'COCOCaption' else first['text']
    assert text.startswith('a picture of a ')


def test_the_drawn_language_model_knows_the_words_of_the_data(data):
    transformers = pytest.importorskip('transformers')
    folder = bert_folder_or_skip(data)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    said = 'a picture of a circle and a star. class 37. object'
    assert '[UNK]' not in tokenizer.tokenize(said)
    assert tokenizer.tokenize('zebra') == ['[UNK]']
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    assert model.config.hidden_size == 768
    assert bert_folder(data) == folder
    cfg = prepare(choose_recipe('mmdet', 'grounding_dino'), data)
    assert cfg.model.language_model.name == folder


def test_the_drawn_clip_gives_what_the_recipes_predict(data):
    from mmpretrain.models.selfsup import CLIPGenerator

    cfg = prepare(choose_recipe('mmpretrain', 'eva'), data)
    assert cfg.model.target_generator.tokenizer_path == clip_file(data)
    features, attention = CLIPGenerator(clip_file(data))(torch.rand(2, 3, 224, 224))
    assert features.shape == (2, 14 * 14 + 1, 512)
    assert attention.shape[-1] == 14 * 14 + 1


@pytest.mark.slow
def test_small_grey_images_are_read_as_mnist(data, tmp_path):
    dataset = build(data, dict(type='MNIST'), 10, 'mmpretrain')
    assert [dataset.get_data_info(index)['gt_label'] for index in range(3)] == [0, 1, 2]
    assert dataset.get_data_info(0)['img'].shape == (28, 28)
    record = try_recipe(choose_recipe('mmpretrain', 'lenet'), data, tmp_path)
    assert record.result == 'works', record.reason
    assert record.held == record.convolutions == 3
