"""What the training and the testing script do to a config that they read."""

import argparse

import pytest

from mmwau.scripts import launch

OWN = "dict(batch_size=2, collate_fn=dict(type='pseudo_collate'))"


@pytest.mark.parametrize(
    ('scope', 'expected'), [('mmpretrain', 'default_collate'), ('mmdet', None), (None, None)]
)
def test_recipes_of_mmpretrain_collate_as_its_scripts_do(tmp_path, scope, expected):
    path = tmp_path / 'recipe.py'
    path.write_text(
        f'default_scope = {scope!r}\ntrain_dataloader = dict(batch_size=2)\n'
        f'val_dataloader = {OWN}\ntest_dataloader = None\n'
    )
    parser = argparse.ArgumentParser()
    launch.add_common_options(parser)
    cfg = launch.load_config(parser.parse_args([str(path)]))
    assert cfg.train_dataloader.get('collate_fn', {}).get('type') == expected
    assert cfg.val_dataloader.collate_fn.type == 'pseudo_collate'
    assert cfg.test_dataloader is None
