"""Report what is wrong with a config before anything is built from it."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from difflib import get_close_matches
from inspect import Parameter, signature

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper

from mmwau.engine.plan import Plan, Planned, hooks_of
from mmwau.engine.wrapper_checks import ELSEWHERE
from mmwau.files.whole import check_folder

from .checkpoint import check_checkpoint, find_last
from .class_check import check_classes, remarks
from .data_check import check_data


def check_train_config(cfg: Config) -> None:
    """Raise if a config, its options merged, can't be trained: WAU's settings first, then the data.

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
    """Raise, as :func:`check_train_config` does, if a config can't be tested."""
    check_folder(cfg.work_dir)
    check_checkpoint(cfg.get('load_from'))
    _check_data(cfg, ('test',))


def _check_data(cfg: Config, stages: Sequence[str]) -> None:
    """Check data and their classes, and log as warnings what may not be meant."""
    sources = check_data(cfg, stages)
    check_classes(cfg, sources)
    for remark in remarks(cfg, sources):
        print_log(remark, 'current', logging.WARNING)


def _check_arguments(kind: type[Planned], settings: dict) -> None:
    """Raise if a part of a config has an argument that its class does not know.

    Raises:
        TypeError: With what it may have meant.
    """
    known = {*ELSEWHERE} if issubclass(kind, OptimWrapper) else set()
    for one in kind.__mro__:
        if '__init__' not in vars(one):
            continue
        parameters = signature(vars(one)['__init__']).parameters.values()
        kinds = [parameter.kind for parameter in parameters]
        named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        known |= {parameter.name for parameter in parameters if parameter.kind in named}
        if Parameter.VAR_KEYWORD not in kinds:
            break
    known.discard('self')
    unknown = [key for key in settings if key not in known]
    if unknown:
        alike = get_close_matches(unknown[0], known, n=1)
        raise TypeError(
            f'{kind.__name__} has no argument {unknown[0]!r}. '
            + (f'Did you mean {alike[0]!r}? ' if alike else '')
            + f'Its arguments are {", ".join(sorted(known))}'
        )


def check_wau(cfg: Config) -> None:
    """Check WAU's settings in ``optim_wrapper`` and hooks; see :func:`check_train_config`."""
    plan = Plan.of_config(cfg)
    for kind, part in ((plan.wrapper, cfg.get('optim_wrapper')), *hooks_of(cfg)):
        if kind is not None and issubclass(kind, Planned):
            elsewhere = ('type', '_scope_', 'priority')
            settings = {key: deepcopy(part[key]) for key in part if key not in elsewhere}
            try:
                kind.check_config(settings, plan)
            except TypeError as error:
                if 'unexpected keyword argument' in str(error):
                    _check_arguments(kind, settings)
                raise
