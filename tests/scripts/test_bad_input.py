"""One table of wrong input, each reported before anything is built. A new case is a new line."""

import math
import os
import pickle
import re
import tempfile
from pathlib import Path

import pytest
import torch
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmwau.files.whole import check_folder
from mmwau.scripts.preflight import check_train_config


def wrapper(**settings):
    return lambda cfg: cfg.optim_wrapper.update(settings)


def hook(**settings):
    return lambda cfg: cfg.custom_hooks[0].update(settings)


def schedule(**phase):
    return hook(ratio_schedule=phase)


def plain_with(*hooks):
    return lambda cfg: (
        cfg.optim_wrapper.update(type='OptimWrapper'),
        cfg.update(custom_hooks=hooks),
    )


def without(path):
    return lambda cfg: Path(path).rename(f'{path}.away')


def file(path, content):
    def write(cfg):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)

    return write


def start_from(content, resume=False):
    def write(cfg):
        file('start.pth', content)(cfg) if isinstance(content, bytes) else torch.save(
            content, 'start.pth'
        )
        cfg.load_from, cfg.resume = 'start.pth', resume

    return write


def truncated_checkpoint(cfg):
    start_from({'state_dict': {'weight': torch.zeros(1000)}})(cfg)
    os.truncate('start.pth', 2000)


def resume_from_one_that_is_gone(cfg):
    file('work_dirs/demo/last_checkpoint', b'work_dirs/demo/epoch_2.pth')(cfg)
    file('work_dirs/demo/epoch_1.pth', b'')(cfg)
    cfg.resume = True


def resume_from_no_name(cfg):
    file('work_dirs/demo/last_checkpoint', b'')(cfg)
    file('work_dirs/demo/epoch_1.pth', b'')(cfg)
    cfg.resume = True


def no_imagenet(cfg):
    cfg.train_dataloader.pop('dataset')
    cfg.train_dataloader.dataset = dict(type='ImageNet', data_root='data/imagenet', split='train')


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ('made',)


class Mine:
    """What a hook of a user's own may keep in a checkpoint."""


# What mim and MMEngine's published_keys leave of a checkpoint.
PUBLISHED = {'state_dict': {'weight': torch.zeros(3)}, 'meta': {'epoch': 2, 'iter': 6}}
ORTHOGONALITY = dict(type='OrthogonalityHook', kind='so')
TRAIN = 'data/demo/annotations/instances_train.json'
VAL = 'data/demo/annotations/instances_val.json'
CASES = [
    # The update ratio.
    (wrapper(update_ratio=0), ValueError, 'update_ratio must be in (0, 1], got 0'),
    (wrapper(update_ratio=-0.5), ValueError, 'update_ratio must be in (0, 1], got -0.5'),
    (wrapper(update_ratio=1.5), ValueError, 'update_ratio must be in (0, 1], got 1.5'),
    (wrapper(update_ratio=math.nan), ValueError, 'update_ratio must be in (0, 1], got nan'),
    (wrapper(update_ratio=math.inf), ValueError, 'update_ratio must be in (0, 1], got inf'),
    (wrapper(update_ratio='half'), TypeError, "a number in (0, 1], got 'half' of type str"),
    (wrapper(update_ratio=None), TypeError, 'a number in (0, 1], got None of type NoneType'),
    (wrapper(update_ratio=True), TypeError, 'a number in (0, 1], got True of type bool'),
    (wrapper(update_ratio=[0.5]), TypeError, 'a number in (0, 1], got [0.5] of type'),
    # The wrapper's other arguments.
    (wrapper(axis='input'), ValueError, "axis must be one of 'out', 'in', 'layer', got 'input'"),
    (wrapper(axis=0), ValueError, "axis must be one of 'out', 'in', 'layer', got 0"),
    (wrapper(sampler='normal'), ValueError, "'bernoulli', 'cyclic', got 'normal'"),
    (wrapper(sampler=None), ValueError, "'bernoulli', 'cyclic', got None"),
    (wrapper(hold='all'), ValueError, "hold must be one of 'weight', 'state', 'grad', got 'all'"),
    (wrapper(rescale=2), TypeError, 'rescale must be True or False, got 2'),
    (wrapper(rescale='no'), TypeError, "rescale must be True or False, got 'no'"),
    (wrapper(seed='x'), TypeError, "seed must be an integer, got 'x'"),
    (wrapper(seed=0.5), TypeError, 'seed must be an integer, got 0.5'),
    (wrapper(min_active=2), ValueError, 'min_active must be 1 or 0, got 2'),
    (wrapper(min_active=1.0), ValueError, 'min_active must be 1 or 0, got 1.0'),
    (wrapper(loss_scale='dynamic'), TypeError, 'has loss_scale, since the config trains with auto'),
    (wrapper(dtype='bfloat16'), TypeError, 'use WAUAmpOptimWrapper, not WAUOptimWrapper'),
    (wrapper(targets=5), TypeError, "prefixes such as ('backbone', 'neck'), got 5 of type int"),
    (wrapper(targets=[]), TypeError, 'must be module-name prefixes'),
    (wrapper(targets=[1]), TypeError, 'must be module-name prefixes'),
    (
        wrapper(update_ration=0.5),
        TypeError,
        "no argument 'update_ration'. Did you mean 'update_ratio'? Its",
    ),
    (wrapper(accumulative_counts=0), ValueError, 'optim_wrapper: _accumulative_counts at least'),
    (wrapper(clip_grad=dict(type='median', x=1)), ValueError, 'should be "norm" or "value" but'),
    # The hook and its wrapper.
    (wrapper(type='OptimWrapper'), TypeError, "optim_wrapper.type is 'OptimWrapper': nothing"),
    (wrapper(type='AmpOptimWrapper'), TypeError, "Set optim_wrapper.type to 'WAUAmpOptimWrapper'"),
    (lambda cfg: cfg.pop('optim_wrapper'), TypeError, "but optim_wrapper.type is 'OptimWrapper'"),
    (lambda cfg: cfg.custom_hooks.append(dict(type='WAUHook')), ValueError, 'WAUHook and WAUHook'),
    (lambda cfg: cfg.custom_hooks.append(dict(type='OverlapHook')), ValueError, 'which measures'),
    (hook(interval=5), TypeError, "no argument 'interval'. Did you mean 'overlap_interval'?"),
    (hook(overlap_interval=0), ValueError, 'overlap_interval must be an integer of at least 1'),
    (hook(overlap_interval=2.5), ValueError, 'at least 1 (iterations), got 2.5'),
    (hook(by_epoch='no'), TypeError, "by_epoch must be True or False, got 'no'"),
    (hook(send_active_only=1), TypeError, 'send_active_only must be True or False, got 1'),
    (hook(send_active_only=True), ValueError, "does not go with hold='weight'"),
    (wrapper(skip_held_grads=True), ValueError, "does not go with hold='weight'"),
    (wrapper(skip_held_grads=2), TypeError, 'True, False or None (where it can be done), got 2'),
    # The schedule.
    (hook(ratio_schedule=0.5), TypeError, 'must be a dict or a list of dicts, got 0.5'),
    (schedule(type='constant', ratio=2), ValueError, 'ratio must be in (0, 1], got 2'),
    (schedule(type='linear', start=1, stop=0, end=3), ValueError, 'stop must be in (0, 1], got 0'),
    (schedule(type='linear', start=1, stop=0.5), ValueError, "type 'linear' needs an end"),
    (schedule(type='step'), ValueError, "type must be one of 'constant', 'linear', 'cosine'"),
    (
        lambda cfg: (
            schedule(type='constant', ratio=1, end=2)(cfg),
            cfg.update(train_cfg=dict(type='IterBasedTrainLoop', max_iters=9)),
        ),
        ValueError,
        'ratio_schedule counts epochs, but training counts only iterations',
    ),
    # The methods that WAU is compared with; the demo trains for 12 epochs.
    (
        lambda cfg: cfg.custom_hooks.append(dict(type='DSDHook', begin=1, end=2)),
        TypeError,
        'DSDHook and WAUOptimWrapper each decide which filters or weights train',
    ),
    (
        plain_with(dict(type='DSDHook', begin=1, end=2), dict(type='RePrHook')),
        ValueError,
        'custom_hooks has DSDHook and RePrHook, each of which leaves a part of the network out',
    ),
    (
        plain_with(dict(type='DSDHook', begin=1, end=50)),
        ValueError,
        'before epoch 50, counted from 0, but training ends after',
    ),
    (
        plain_with(ORTHOGONALITY, ORTHOGONALITY),
        ValueError,
        'custom_hooks has two OrthogonalityHooks; keep one of them',
    ),
    (
        plain_with(dict(type='BornAgainHook', teacher=3)),
        TypeError,
        'teacher must be the path of a checkpoint, got 3',
    ),
    (
        plain_with(dict(type='BornAgainHook', teacher='none.pth')),
        FileNotFoundError,
        'teacher: the checkpoint none.pth does not exist (from ',
    ),
    (
        lambda cfg: (
            plain_with(ORTHOGONALITY)(cfg),
            cfg.update(train_cfg=dict(by_epoch=False, max_iters=9)),
        ),
        ValueError,
        'OrthogonalityHook: milestones count epochs, but training counts only iterations',
    ),
    (
        lambda cfg: (
            plain_with(dict(type='DSDHook', begin=1, end=2))(cfg),
            cfg.update(train_cfg=dict(by_epoch=False, max_iters=9)),
        ),
        ValueError,
        'DSDHook counts epochs, but training counts only iterations',
    ),
    (
        lambda cfg: (
            plain_with(dict(type='DSDHook', begin=1, end=2))(cfg),
            cfg.update(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')),
        ),
        TypeError,
        'DSDHook does not work with MMFullyShardedDataParallel, which cuts parameters over proc',
    ),
    # Ways of training that WAU does not work with.
    (
        lambda cfg: cfg.update(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')),
        TypeError,
        'WAU does not work with MMFullyShardedDataParallel, which cuts parameters over processes',
    ),
    (lambda cfg: cfg.update(strategy=dict(type='FSDPStrategy')), TypeError, 'with FSDPStrategy'),
    (lambda cfg: cfg.update(strategy='FSDPStrategy'), TypeError, 'with FSDPStrategy, which cuts'),
    (
        lambda cfg: cfg.update(runner_type='FlexibleRunner'),
        TypeError,
        'FlexibleRunner does not pass the model',
    ),
    (lambda cfg: cfg.update(strategy=dict(type='DeepSpeedStrategy')), TypeError, 'DeepSpeedStrat'),
    (lambda cfg: cfg.update(strategy=dict(type='ColossalAIStrategy')), TypeError, 'ColossalAIStr'),
    # The data.
    (without(TRAIN), FileNotFoundError, f'train_dataloader.dataset.ann_file: {TRAIN} does not ex'),
    (without(TRAIN), FileNotFoundError, 'draw it with: python tools/make_demo_data.py'),
    (without(VAL), FileNotFoundError, f'val_dataloader.dataset.ann_file: {VAL} does not exist'),
    (without('data/demo/train'), FileNotFoundError, 'train_dataloader.dataset.data_prefix.img: '),
    (
        lambda cfg: cfg.val_evaluator.update(ann_file='data/coco/annotations/val.json'),
        FileNotFoundError,
        'val_evaluator.ann_file: data/coco/annotations/val.json does not exist',
    ),
    (file(TRAIN, b'{"images": []}'), ValueError, 'there is no "categories"'),
    (file(TRAIN, b''), ValueError, f'{TRAIN} is not a COCO annotation file'),
    (
        lambda cfg: cfg.train_dataloader.dataset.update(ann_file='annotations'),
        ValueError,
        'annotations is not a COCO annotation file, a JSON object',
    ),
    (file(TRAIN, b'<annotation/>'), ValueError, 'is not a COCO annotation file, a JSON object'),
    (
        file(TRAIN, b'{"images": [], "annotations": [], "categories": ['),
        ValueError,
        'it is truncated, or no JSON in UTF-8: Expecting value: line 1 column 50',
    ),
    # The checkpoint and the work_dir.
    (lambda cfg: cfg.update(load_from='none.pth'), FileNotFoundError, 'none.pth does not exist'),
    (resume_from_one_that_is_gone, FileNotFoundError, 'and work_dirs/demo has no epoch_2.pth. N'),
    (truncated_checkpoint, ValueError, 'start.pth can not be read; it is truncated or is no'),
    (start_from(b'no checkpoint'), ValueError, 'start.pth can not be read; it is truncated or'),
    (start_from(pickle.dumps([1, 2])), ValueError, 'holds no weights by name: neither at its top'),
    (start_from([1, 2]), ValueError, 'start.pth holds no weights by name: neither at its top'),
    (start_from(RunsCode()), ValueError, 'start.pth is refused: it asks to run'),
    (start_from(PUBLISHED, resume=True), ValueError, 'start.pth, which has no message_hub: it has'),
    (start_from(PUBLISHED, resume=True), ValueError, 'use --cfg-options load_from=start.pth inst'),
    (
        start_from({**PUBLISHED, 'meta': {'epoch': 2}, 'message_hub': {}}, resume=True),
        ValueError,
        "start.pth, which has no meta['iter']: it has weights",
    ),
    (
        start_from({**PUBLISHED, 'message_hub': {}, 'mine': Mine()}, resume=True),
        ValueError,
        'from start.pth: it asks to run test_bad_input.Mine, which may do anything. If it is yours',
    ),
    (resume_from_no_name, ValueError, 'last_checkpoint is empty: training was killed while'),
    (
        resume_from_no_name,
        ValueError,
        'Name the checkpoint to go on from, --resume work_dirs/demo/NAME, of those in it: epoch_1',
    ),
    (no_imagenet, FileNotFoundError, 'dataset.data_root: data/imagenet does not exist'),
    (file('work_dirs', b''), NotADirectoryError, 'work_dirs is a file. Name another --work-dir'),
]


@pytest.mark.parametrize(('harm', 'error', 'words'), CASES)
def test_wrong_input_is_reported(cfg, harm, error, words):
    harm(cfg)
    before = sorted(Path('.').rglob('*'))
    with pytest.raises(error, match=re.escape(words)):
        check_train_config(cfg)
    assert sorted(Path('.').rglob('*')) == before


@RUNNERS.register_module()
class RunnerOfOnesOwn(Runner):
    """Does what MMEngine's does."""


@pytest.mark.parametrize('runner_type', ['Runner', 'mmengine.Runner', Runner, 'RunnerOfOnesOwn'])
def test_the_runner_of_mmengine_is_taken_by_any_name(cfg, runner_type):
    cfg.runner_type = runner_type
    check_train_config(cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_mixed_precision_without_an_accelerator_is_reported(cfg):
    cfg.optim_wrapper.type = 'WAUAmpOptimWrapper'
    with pytest.raises(ValueError, match=r'WAUAmpOptimWrapper \(--amp\) needs a GPU .*without --a'):
        check_train_config(cfg)


def test_work_dir_that_can_not_be_written_is_reported():
    # In a process of its own, which stops being root if it is, since root may write anywhere.
    folder = Path(tempfile.mkdtemp())
    child = os.fork()
    if child == 0:
        try:
            folder.chmod(0o555)
            if os.geteuid() == 0:
                os.setuid(65534)
            check_folder(str(folder / 'demo'))
        except PermissionError as error:
            told = (
                f'--work-dir {folder}/demo: {folder} can not be written to. Name another --work-dir'
            )
            os._exit(0 if str(error) == told else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    folder.rmdir()
