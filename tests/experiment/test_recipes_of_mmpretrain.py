import importlib.util

import numpy as np
import pytest
from detection import ROOT, run_python
from PIL import Image

from mmwau.experiment.record import TrainingRecord
from mmwau.files.records import read_records

SUITE = """
title = 'ResNet-20'
metric = 'accuracy/top1'
seeds = [0]
options = {
    **{f'{name}_dataloader.dataset.type': 'CIFARBatches' for name in ('train', 'val', 'test')},
    **{f'{name}_dataloader.num_workers': 0 for name in ('train', 'val')},
    **{f'{name}_dataloader.persistent_workers': False for name in ('train', 'val')},
    'train_dataloader.batch_size': 10,
    'train_cfg.max_epochs': 1,
    'model.backbone.blocks': 8,
}
settings = {'ResNet-8': dict(config='configs/cifar/resnet20{arm}_cifar10.py')}
arms = {'baseline': dict(), 'WAU': dict(config='_wau')}
"""


@pytest.mark.slow
def test_trainings_are_those_of_the_suite(tmp_path):
    """What the training script adds to a recipe of MMPreTrain makes it no other training."""
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    for index, image in enumerate(images):
        split = ('train', 'test')[index // 10]
        folder = tmp_path / 'images' / split / f'class{index % 10}'
        folder.mkdir(parents=True)
        Image.fromarray(image).save(folder / 'image.png')
    converter = ROOT / 'tools' / 'dataset_converters' / 'cifar_folders_to_batches.py'
    spec = importlib.util.spec_from_file_location('converter', converter)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.convert(tmp_path / 'images', tmp_path / 'data' / 'cifar10')
    for name in ('tools', 'configs'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'suite.py').write_text(SUITE)
    done = run_python(ROOT / 'tools' / 'experiment.py', 'suite.py', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    records = read_records(TrainingRecord, tmp_path / 'work_dirs' / 'suite' / 'suite.json')
    assert [(one.arm, one.status) for one in records] == [
        ('baseline', 'finished'),
        ('WAU', 'finished'),
    ]
    again = run_python(ROOT / 'tools' / 'experiment.py', 'suite.py', cwd=tmp_path)
    assert '2 trainings, 2 done, 0 to train' in again.stdout
