# Fine-tuning: the comparison of docs/finetune_protocol.md, on the images to report on. Not to be
# trained yet: the learning rates are to be those that finetune_rates.py chooses, and the epochs at
# equal time are to follow from measured steps.
_base_ = './finetune_rates.py'

title = 'Fine-tuning'
seeds = [0, 1, 2, 3, 4]
options = {'train_cfg.val_interval': 1, 'custom_hooks.0.movement': True}
settings = {
    name: dict(
        options={
            'val_dataloader.dataset.ann_file': f'annotations/{part}.json',
            'val_dataloader.dataset.data_prefix.img': f'{part}/',
            'val_evaluator.ann_file': f'data/{data}/annotations/{part}.json',
        }
    )
    for name, data, part in (
        ('Raccoons', 'raccoon', 'test'),
        ('Playing cards', 'cards', 'test'),
        ('BCCD blood cells', 'bccd', 'val'),
    )
}
rates = {
    'baseline': 0.0005,
    'WAU': 0.0005,
    "WAU, authors' code": 0.0005,
    'WAU, rescale': 0.0005,
    'WAU, whole layers': 0.0005,
    'WAU, whole layers, 0.5 to 1': 0.0005,
    'WAU, whole layers, 0.75': 0.0005,
}
arms = {kind: _base_.arms[f'{kind}, {rate:g}'] for kind, rate in rates.items()}
# At equal processor time.
for kind, epochs in (
    ('WAU, whole layers', 10),
    ('WAU, whole layers, 0.5 to 1', 9),
    ('WAU, whole layers, 0.75', 9),
):
    longer = {'train_cfg.max_epochs': epochs, 'param_scheduler.1.T_max': epochs}
    if '0.5 to 1' in kind:
        longer['custom_hooks.0.ratio_schedule.end'] = epochs
    arms[f'{kind}, equal time'] = dict(arms[kind], options={**arms[kind].options, **longer})
arms['_delete_'] = True
del rates, kind, epochs, longer
