from pathlib import Path

import pytest
from mmengine.config import Config

CONFIGS = Path(__file__).parents[1] / 'configs'
PAIRS = [
    ('faster_rcnn_r50_wau_coco', 'faster_rcnn_r50_coco'),
    ('faster_rcnn_r18_wau_demo', 'faster_rcnn_r18_demo'),
    ('faster_rcnn_r18_wau_bccd', 'faster_rcnn_r18_bccd'),
]


def load(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def test_every_config_is_in_a_pair():
    assert sorted(path.stem for path in CONFIGS.glob('*.py')) == sorted(sum(PAIRS, ()))


@pytest.mark.parametrize(('wau', 'plain'), PAIRS)
def test_twins_differ_in_the_three_lines_alone(wau, plain):
    wau, plain = load(wau).to_dict(), load(plain).to_dict()
    assert wau['custom_imports'] == dict(imports=['mmwau'], allow_failed_imports=False)
    (hook,), (plain_hook,) = wau.pop('custom_hooks'), plain.pop('custom_hooks')
    assert hook.pop('type') == 'WAUHook'
    assert plain_hook.pop('type') == 'OverlapHook'
    assert hook == plain_hook
    assert wau['optim_wrapper'].pop('type') == 'WAUOptimWrapper'
    assert wau['optim_wrapper'].pop('update_ratio') == 0.5
    assert plain['optim_wrapper'].pop('type') == 'OptimWrapper'
    assert wau == plain


def test_coco_config_is_the_recipe_of_mmdetection():
    recipe = Config.fromfile(CONFIGS / 'faster_rcnn_r50_coco.py')
    assert recipe.train_cfg.max_epochs == 12
    assert recipe.optim_wrapper.optimizer == dict(
        type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001
    )
    assert recipe.model.backbone.depth == 50
    assert recipe.train_dataloader.dataset.ann_file == 'annotations/instances_train2017.json'
