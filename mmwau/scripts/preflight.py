"""Report what is wrong with a config before anything is built from it."""

import logging
from collections.abc import Sequence
from copy import deepcopy

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from torch.nn import Parameter
from torch.optim import SGD

from mmwau.comparison import DropoutHook, DSDHook, OrthogonalityHook, RePrHook
from mmwau.comparison.leave_out import LeaveOutHook, check_one
from mmwau.core import sharding
from mmwau.engine.optim_wrapper import WAUMixin
from mmwau.engine.overlap_hook import OverlapHook, check_alone
from mmwau.engine.type_names import type_name
from mmwau.engine.wau_hook import WAUHook, wrong_runner, wrong_wrapper
from mmwau.files.whole import check_folder

from .checkpoint import check_checkpoint, find_last
from .class_check import check_classes, remarks
from .data_check import check_data

COMPARISONS = (RePrHook, DSDHook, OrthogonalityHook, DropoutHook)


def check_train_config(cfg: Config) -> None:
    """Raise if a config can't be trained: WAU's settings first, then the data.

    Args:
        cfg: The config, its command-line options merged.

    Raises:
        TypeError: If a setting of WAU has the wrong type, or WAUHook comes without WAU's wrapper.
        ValueError: If a setting of WAU is out of its range or unknown, or a file is not what it
            should be.
        FileNotFoundError: If an annotation file, a data folder or the checkpoint to start from
            does not exist.
        NotADirectoryError: If the work_dir is a file.
        PermissionError: If the work_dir can't be written to.
    """
    check_wau(cfg)
    check_folder(cfg.work_dir)
    resume, start = bool(cfg.get('resume')), cfg.get('load_from')
    check_checkpoint(find_last(cfg) if resume and start is None else start, resume)
    _check_data(cfg, ('train', 'val'))


def check_test_config(cfg: Config) -> None:
    """Raise if a config can't be tested.

    Raises:
        FileNotFoundError: If the checkpoint, an annotation file or a data folder does not exist.
        ValueError: If one of them is not what it should be.
        NotADirectoryError: If the work_dir is a file.
        PermissionError: If the work_dir can't be written to.
    """
    check_folder(cfg.work_dir)
    check_checkpoint(cfg.get('load_from'))
    _check_data(cfg, ('test',))


def _check_data(cfg: Config, stages: Sequence[str]) -> None:
    """Check data and their classes, and log as warnings what may not be meant."""
    sources = check_data(cfg, stages)
    check_classes(cfg, sources)
    for remark in remarks(cfg, sources):
        print_log(remark, 'current', logging.WARNING)


def check_wau(cfg: Config) -> None:
    """Check the settings of WAU in ``optim_wrapper`` and ``custom_hooks``.

    Raises:
        TypeError: See :func:`check_train_config`.
        ValueError: See :func:`check_train_config`.
    """
    wrapper = cfg.get('optim_wrapper') or {}
    wrapper_type = _class_of(wrapper.get('type'), OPTIM_WRAPPERS)
    is_wau = isinstance(wrapper_type, type) and issubclass(wrapper_type, WAUMixin)
    if is_wau:
        _check_wrapper(wrapper_type, wrapper)
        for part in ('strategy', 'model_wrapper_cfg'):
            kind = _name(cfg.get(part))
            if kind in sharding.SETTINGS:
                raise TypeError(sharding.sharded(kind))
        if 'runner_type' in cfg and _name(cfg.runner_type) != 'Runner':
            raise TypeError(wrong_runner(_name(cfg.runner_type)))
    hooks = [
        (kind, hook)
        for hook in cfg.get('custom_hooks') or []
        if isinstance(hook, dict)
        and (kind := _class_of(hook.get('type'), HOOKS)) in (WAUHook, OverlapHook, *COMPARISONS)
    ]
    kinds = [kind for kind, _ in hooks]
    if WAUHook in kinds and not is_wau:
        raise TypeError(wrong_wrapper(_name(wrapper) or 'OptimWrapper'))
    check_alone([kind for kind in kinds if issubclass(kind, OverlapHook)])
    check_one(kinds)
    loop = cfg.get('train_cfg') or {}
    counts_iterations = _name(loop) == 'IterBasedTrainLoop' or loop.get('by_epoch') is False
    for kind, hook in hooks:
        elsewhere = ('type', '_scope_', 'priority')
        built = kind(**{name: value for name, value in hook.items() if name not in elsewhere})
        if kind is WAUHook:
            built.check_hold(wrapper.get('hold', 'weight'))
            if counts_iterations:
                built.check_iterations()
        elif isinstance(built, LeaveOutHook):
            built.check_wrapper(wrapper_type or OptimWrapper)
            built.check_epochs(None if counts_iterations else loop.get('max_epochs'))


def _check_wrapper(wrapper_type: type[WAUMixin], settings: dict) -> None:
    """Build the wrapper around an optimizer of nothing, so that it checks its own arguments."""
    if issubclass(wrapper_type, AmpOptimWrapper) and get_device() == 'cpu':
        raise ValueError(
            f'optim_wrapper.type {wrapper_type.__name__} (--amp) needs a GPU or another '
            'accelerator, and there is none here. Use WAUOptimWrapper, without --amp'
        )
    of_amp = [key for key in ('loss_scale', 'dtype', 'use_fsdp') if key in settings]
    if of_amp and not issubclass(wrapper_type, AmpOptimWrapper):
        raise TypeError(
            f'optim_wrapper has {", ".join(of_amp)}, since the config trains with automatic mixed '
            f'precision: use WAUAmpOptimWrapper, not {wrapper_type.__name__}'
        )
    elsewhere = ('type', '_scope_', 'optimizer', 'constructor', 'paramwise_cfg')
    arguments = {key: deepcopy(value) for key, value in settings.items() if key not in elsewhere}
    try:
        wrapper_type(optimizer=SGD([Parameter(torch.zeros(1))], lr=1.0), **arguments)
    except AssertionError as error:
        raise ValueError(f'optim_wrapper: {error}') from error


def _name(part: dict | str | type | None) -> str | None:
    """Name of the type that a part of a config has, or is."""
    return type_name(part.get('type') if isinstance(part, dict) else part)


def _class_of(name_or_class: str | type | None, registry) -> type | None:
    return registry.get(name_or_class) if isinstance(name_or_class, str) else name_or_class
