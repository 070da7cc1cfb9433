"""Train one recipe for two updates with WAU, and check bit for bit what moved."""

import math
import re
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner

from mmwau.scripts.launch import build_runner
from mmwau.scripts.preflight import check_train_config
from mmwau.targets import DEFAULT_TARGETS

from .exempt import EXEMPT, FAULTS
from .recipes import SEED, UPDATES, Recipe, prepare, short, zoo_of
from .watch import Watch

WORKS, NOT_FOR_IT, NOT_TRIED = 'works', 'does not apply', 'not tried'
FAILED, FAILS_PLAIN = 'failed', 'fails without WAU too'
# What a slice may be; see mmwau.targets.find_layers.
AXES = ('out', 'in', 'layer')
# What stops a recipe that says nothing about WAU, by words of the error.
NO_CONVOLUTION = r'No convolution .*(is below|can be held)'
NO_GPU = (
    r'not implemented on CPU|CUDA error|compiled with CUDA|not compiled with GPU|'
    r'implementation for device cpu not found|Found no NVIDIA driver'
)
NO_PACKAGE = (
    r"No module named '?([\w.]+)|Please install ([\w.-]+)|([\w.-]+) is not installed|"
    r'Please run "pip install ([\w.-]+)|'
    r"Failed to import custom modules from {'imports': \['(\w+)"
)
NO_INTERNET = r'urlopen error|Max retries exceeded|Failed to resolve|couldn.t connect'
REASONS = (
    (NO_CONVOLUTION, NOT_FOR_IT, 'no convolution that trains in backbone and neck'),
    (NO_GPU, NOT_TRIED, 'an op of it needs a GPU'),
    (NO_PACKAGE, NOT_TRIED, 'needs the package {}'),
    (NO_INTERNET, NOT_TRIED, 'fetches weights or texts from the internet'),
)


@dataclass(frozen=True)
class TrialRecord:
    """The outcome of a :class:`.recipes.Recipe`, for the report.

    Args:
        recipe: Name of the config, ``''`` if none was tried.
        result: ``'works'``, ``'does not apply'``, ``'not tried'``, ``'failed'`` or ``'fails without
            WAU too'``.
        reason: Of ``'works'``: remarks. Of the others: why.
        backbone: Type of the backbone.
        held: Convolutions that are held.
        convolutions: Convolutions below the targets, with those that are not held.
        filters: Filters of the held ones.
        skipping: Held convolutions that left out gradients of what is held, by axis, under
            ``hold='state'``.
        active: Filters that were active under ``hold='weight'``, summed over the updates.
        moved: Of these, how many moved.
        without_gradient: Of these, how many had no gradient, or one of zeros.
        left_out: How many convolutions are not held, by reason.
        seconds: How long it took.
    """

    project: str
    family: str
    recipe: str = ''
    result: str = NOT_TRIED
    reason: str = ''
    backbone: str = ''
    held: int = 0
    convolutions: int = 0
    filters: int = 0
    skipping: dict[str, int] = field(default_factory=dict)
    active: int = 0
    moved: int = 0
    without_gradient: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Project and family."""
        return f'{self.project}/{self.family}'


def try_recipe(recipe: Recipe, data: Path, work_dir: Path) -> TrialRecord:
    """Train a recipe for two updates on :func:`.data.make_data`'s folder, and check what moved.

    Whatever the recipe raises is the reason in its record.
    """
    start = time.monotonic()
    found: dict[str, Any] = dict(project=recipe.project, family=recipe.family)
    found['recipe'] = str(recipe.path.relative_to(zoo_of(recipe.project)))
    remarks = [EXEMPT[recipe.name].reason] if recipe.name in EXEMPT else []
    try:
        cfg = prepare(recipe, data)
        found['backbone'] = _backbone(cfg.model)
        if 'Amp' in Config.fromfile(recipe.path).optim_wrapper.get('type', ''):
            remarks.append('float32 instead of AMP')
        cfg.work_dir = str(work_dir)
        cfg.experiment_name = str(work_dir).replace('/', '_')
        check_train_config(cfg)
        runner = build_runner(cfg)
        watch = Watch(cfg.optim_wrapper.get('targets', DEFAULT_TARGETS))
        runner.register_hook(watch)
        runner.train()
        if watch.updates != UPDATES:
            watch.wrong.append(f'{watch.updates} updates were made instead of {UPDATES}')
        held, left_out = len(watch.layers), Counter(watch.left_out.values())
        found |= dict(held=held, convolutions=held + left_out.total(), left_out=dict(left_out))
        found |= {name: getattr(watch, name) for name in ('active', 'moved', 'without_gradient')}
        found['filters'] = sum(layer.num_slices for layer in watch.layers.values())
        found['skipping'] = {
            axis: skip_in_one_update(runner, watch, axis) for axis in find_axes(runner, watch)
        }
        if not all(map(math.isfinite, watch.losses)):
            remarks.append('a loss was not finite')
        wrong = '; '.join(watch.wrong[:3])
        result, reason = (FAILED, wrong) if wrong else (WORKS, '; '.join(remarks))
    except Exception as error:
        traceback.print_exc()
        result, reason = explain(error)
        if result == FAILED and reason == error_of_plain(recipe, data):
            result = FAILS_PLAIN
            if recipe.name in FAULTS:
                reason += f': {FAULTS[recipe.name]}'
    seconds = round(time.monotonic() - start, 1)
    return TrialRecord(**found, result=result, reason=reason, seconds=seconds)


def find_axes(runner: Runner, watch: Watch) -> list[str]:
    """The axes along which something of the model can be held."""
    found = []
    for axis in AXES:
        with suppress(ValueError):  # where all are grouped, for example
            Watch(watch.targets, axis).find(runner)
            found.append(axis)
    return found


def skip_in_one_update(runner: Runner, of_training: Watch, axis: str) -> int:
    """Make one more update under ``hold='state'``, which skips gradients of what is held.

    Args:
        runner: That of the training, which is over.
        of_training: What has watched it; it gets what is wrong here.
        axis: What a slice is in this update.

    Returns:
        How many convolutions skipped them.
    """
    settings = dict(runner.cfg.optim_wrapper.items())
    for of_groups in ('constructor', 'paramwise_cfg'):
        settings.pop(of_groups, None)
    optimizer = runner.optim_wrapper.optimizer
    settings.update(hold='state', axis=axis, seed=SEED, optimizer=optimizer)
    wrapper = OPTIM_WRAPPERS.build(settings)
    wrapper.initialize_count_status(runner.model, 0, of_training.counts)
    watch = Watch(of_training.targets, axis)
    watch.find(runner)
    watch.start()
    # The loop's own: some samplers can not be started again in the middle of an epoch.
    batches = runner.train_loop.dataloader_iterator
    for _ in range(of_training.counts):
        runner.model.train_step(next(batches), wrapper)
    moved = {name: int(moved.sum()) for name, _, moved in watch.end(update=0)}
    if not any(moved.values()):
        watch.wrong.append('nothing that is active moved')
    of_training.wrong += [f"{what} under axis={axis!r}, hold='state'" for what in watch.wrong]
    return len(watch.layers) - len(wrapper.updates.skipper.find_full())


def error_of_plain(recipe: Recipe, data: Path) -> str:
    """What the same small recipe raises in training without WAU, ``''`` if nothing."""
    with TemporaryDirectory() as work_dir:
        cfg = prepare(recipe, data)
        cfg.work_dir = work_dir
        cfg.experiment_name = work_dir.replace('/', '_')
        cfg.custom_hooks.pop()
        for setting in ('update_ratio', 'targets'):
            cfg.optim_wrapper.pop(setting, None)
        cfg.optim_wrapper.type = 'OptimWrapper'
        try:
            build_runner(cfg).train()
        except Exception as error:
            return short(error)
    return ''


def explain(error: BaseException) -> tuple[str, str]:
    """Result and reason of a recipe that raised."""
    for pattern, result, reason in REASONS:
        found = re.search(pattern, str(error))
        if found:
            return result, reason.format(next(filter(None, found.groups()), ''))
    return FAILED, short(error)


def _backbone(model: dict) -> str:
    inner = model.get('backbone') or (model.get('detector') or {}).get('backbone') or {}
    return str(inner.get('type', '')).rpartition('.')[2]
