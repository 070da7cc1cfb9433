# Fine-tuning with 24 images: the learning rate of each arm, as in finetune_rates.py. The images:
#   python tools/dataset_converters/split_coco.py data/raccoon/annotations/train.json few=24
# and so for data/cards/annotations/fit.json and data/bccd/annotations/fit.json, which are those of
# finetune_rates.py.
_base_ = './finetune_rates.py'

title = 'Fine-tuning with 24 images: learning rates'
options = {
    'train_cfg.max_epochs': 20,
    'param_scheduler.1.T_max': 20,
    'train_cfg.val_interval': 20,
}
settings = {
    name: dict(options={'train_dataloader.dataset.ann_file': 'annotations/few.json'})
    for name in ('Raccoons', 'Playing cards', 'BCCD blood cells')
}
arms = {
    f'WAU, whole layers, 0.5 to 1, {rate:g}': dict(
        options={'custom_hooks.0.ratio_schedule.end': 20}
    )
    for rate in (0.001, 0.0005, 0.00025, 0.002)
}
