from pathlib import Path

import pytest
import safetensors.torch
import torch

from mmwau import DropoutHook
from mmwau.scripts.preflight import check_test_config, check_train_config


def test_good_config_passes_and_is_not_changed(cfg):
    cfg.optim_wrapper.clip_grad = dict(type='norm', max_norm=1.0)
    # MMEngine writes this into what a config takes from another library.
    cfg.optim_wrapper['_scope_'] = cfg.custom_hooks[0]['_scope_'] = 'mmdet'
    before = cfg.to_dict()
    check_train_config(cfg)
    check_test_config(cfg)
    assert cfg.to_dict() == before


def test_plain_config_passes(cfg):
    cfg.custom_hooks = []
    cfg.optim_wrapper.type = 'OptimWrapper'
    del cfg.optim_wrapper['update_ratio']
    check_train_config(cfg)


def test_data_in_wrappers_are_checked_too(cfg):
    missing = dict(type='CocoDataset', data_root='data/coco/', ann_file='annotations/none.json')
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset',
        times=2,
        dataset=dict(type='ConcatDataset', datasets=[cfg.train_dataloader.dataset, missing]),
    )
    with pytest.raises(FileNotFoundError, match=r'data/coco/annotations/none.json.*COCO 2017'):
        check_train_config(cfg)


def test_several_metrics_are_checked(cfg):
    other = dict(type='CocoMetric', ann_file='data/bccd/annotations/val.json')
    cfg.val_evaluator = [cfg.val_evaluator, other]
    with pytest.raises(FileNotFoundError, match=r'val_evaluator.ann_file: .*voc_to_coco.py'):
        check_train_config(cfg)


@pytest.mark.parametrize(
    'elsewhere',
    [
        dict(data_root='s3://bucket/coco/'),
        dict(data_root='data/none/', backend_args=dict(backend='petrel')),
        dict(type='CIFAR10', data_root='data/none/', ann_file='', data_prefix='fetched'),
        dict(type='CustomDataset', data_root='', ann_file='', data_prefix='left/alone'),
    ],
)
def test_data_elsewhere_are_not_looked_for(cfg, elsewhere):
    cfg.train_dataloader.dataset.update(elsewhere)
    check_train_config(cfg)


def test_hooks_and_wrappers_it_does_not_know_are_left_alone(cfg):
    cfg.custom_hooks = [dict(type='SomeHook'), dict(type='other.OtherHook')]
    cfg.optim_wrapper.type = 'SomeWrapper'
    check_train_config(cfg)


class PickyHook(DropoutHook):
    """A hook of a user's own, which preflight has never heard of."""

    def check(self, plan):
        if plan.max_epochs < 100:
            raise ValueError(f'{plan.wrapper_name}: {plan.max_epochs} epochs are too few')


def test_a_hook_of_ones_own_checks_itself(cfg):
    cfg.custom_hooks.append(dict(type=PickyHook, drop_prob=0.5, modules='backbone'))
    cfg.train_cfg.max_epochs = 100
    check_train_config(cfg)
    cfg.train_cfg.max_epochs = 99
    with pytest.raises(ValueError, match='WAUOptimWrapper: 99 epochs are too few'):
        check_train_config(cfg)


@pytest.mark.parametrize('check', [check_train_config, check_test_config])
def test_checkpoints_that_exist_or_are_elsewhere_pass(cfg, check):
    torch.save({'state_dict': {'weight': torch.zeros(3)}}, 'weights.pth')
    for place in ('weights.pth', 'https://example.org/epoch_9.pth', 'torchvision://resnet50'):
        cfg.load_from = place
        check(cfg)
    weights = {'weight': torch.zeros(3)}
    torch.save(weights, 'old.pth', _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(weights, 'weights.safetensors')
    for place in ('old.pth', 'weights.safetensors'):
        cfg.load_from = place
        check(cfg)


def test_images_to_test_on_need_no_annotations(cfg):
    images = Path('data/demo/annotations/image_info.json')
    images.write_text('{"images": [], "categories": []}\n')
    cfg.test_dataloader.dataset.ann_file = 'annotations/image_info.json'
    check_test_config(cfg)
    cfg.train_dataloader.dataset.ann_file = 'annotations/image_info.json'
    with pytest.raises(ValueError, match='there is no "annotations"'):
        check_train_config(cfg)


def test_several_train_dataloaders_are_left_alone(cfg):
    cfg.train_dataloader = [cfg.train_dataloader]
    check_train_config(cfg)


def test_nothing_to_resume_from_starts_anew_as_in_mmengine(cfg):
    Path(cfg.work_dir).mkdir(parents=True)
    cfg.resume = True
    check_train_config(cfg)
