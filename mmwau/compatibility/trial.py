"""Train one recipe for two updates with WAU, and check bit for bit what moved."""

import math
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmwau.core.slices import Layer
from mmwau.scripts.launch import build_runner
from mmwau.scripts.preflight import check_train_config
from mmwau.targets import DEFAULT_TARGETS, find_layers, find_left_out
from mmwau.wau import WAU

from .recipes import (
    EXEMPT,
    SEED,
    UPDATE_RATIO,
    UPDATES,
    WRAPPER,
    Recipe,
    prepare,
    read_recipe,
    short,
    zoo_of,
)

WORKS, NOT_FOR_IT, NOT_TRIED = 'works', 'does not apply', 'not tried'
FAILED, FAILS_PLAIN = 'failed', 'fails without WAU too'
# What stops a recipe that says nothing about WAU, by words of the error.
NO_CONVOLUTION = r'No convolution .*(is below|can be held)'
NO_GPU = (
    r'not implemented on CPU|CUDA error|compiled with CUDA|not compiled with GPU|'
    r'implementation for device cpu not found|Found no NVIDIA driver'
)
NO_PACKAGE = r"No module named '?([\w.]+)|Please install ([\w.-]+)|([\w.-]+) is not installed"
NO_INTERNET = r'urlopen error|Max retries exceeded|Failed to resolve|couldn.t connect'
REASONS = (
    (NO_CONVOLUTION, NOT_FOR_IT, 'no convolution that trains in backbone and neck'),
    (NO_GPU, NOT_TRIED, 'an op of it needs a GPU'),
    (NO_PACKAGE, NOT_TRIED, 'needs the package {}'),
    (NO_INTERNET, NOT_TRIED, 'fetches weights or texts from the internet'),
)


@dataclass(frozen=True)
class TrialRecord:
    """The outcome of a recipe, for the report.

    Args:
        project: See :class:`mmwau.compatibility.recipes.Recipe`.
        family: See there.
        recipe: Name of the config, ``''`` if none was tried.
        result: ``'works'``, ``'does not apply'``, ``'not tried'``, ``'failed'`` or ``'fails without
            WAU too'``.
        reason: Of ``'works'``: remarks. Of the others: why.
        backbone: Type of the backbone.
        held: Convolutions that are held.
        convolutions: Convolutions below the targets, with those that are not held.
        filters: Filters of the held ones.
        skipping: Held convolutions that left out gradients of held filters under ``hold='state'``.
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
    skipping: int = 0
    active: int = 0
    moved: int = 0
    without_gradient: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Project and family."""
        return f'{self.project}/{self.family}'


class Watch(Hook):
    """Checks each update from its start to its end: held slices keep every bit, active ones move.

    It finds the layers and draws the selections by itself, and asks the optimizer wrapper for
    neither. What it has found is in its attributes.

    Args:
        targets: Those of the optimizer wrapper.
    """

    priority = 'VERY_LOW'

    def __init__(self, targets: Sequence[str] = DEFAULT_TARGETS):
        self.targets = targets
        self.rule = WAU(UPDATE_RATIO, seed=SEED)
        self.layers: dict[str, Layer] = {}
        self.left_out: dict[str, str] = {}
        self.wrong: list[str] = []
        self.losses: list[float] = []
        self.active = self.moved = self.without_gradient = self.updates = 0
        self._hooks: list = []
        self._has_gradient: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the layers, and give those in residual branches a gradient from the start."""
        start_branches(runner.model)
        where = runner.model, self.targets, 'out', runner.optim_wrapper.optimizer
        self.layers, self.left_out = find_layers(*where), find_left_out(*where)
        self.counts = runner.cfg.optim_wrapper.accumulative_counts
        for name, layer in self.layers.items():
            weight, dim = layer.tensors[0]
            self._hooks.append(weight.register_hook(partial(self._see, name, dim)))

    def after_train(self, runner: Runner) -> None:
        """Look at gradients no longer: where somebody does, none are skipped."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, name: str, dim: int, grad: Tensor) -> None:
        self._has_gradient[name] = self._has_gradient.get(name, False) | _any_in_slice(grad, dim)

    def before_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Look at the start of an update."""
        if runner.iter % self.counts == 0:
            self._has_gradient = {}
            self.start()

    def after_train_iter(
        self, runner: Runner, *args: object, outputs: dict, **kwargs: object
    ) -> None:
        """Look at its end."""
        self.losses.append(torch.as_tensor(outputs['loss']).item())
        if (runner.iter + 1) % self.counts:
            return
        for name, active, moved in self.end(self.updates):
            has_gradient = self._has_gradient.get(name, torch.zeros_like(active))
            self.active += int(active.sum())
            self.moved += int((active & moved).sum())
            self.without_gradient += int((active & ~has_gradient).sum())
            if (active & has_gradient).any() and not (active & moved).any():
                self.wrong.append(f'no active filter of {name} moved')
        self.updates += 1

    def start(self) -> None:
        """Keep the weights as they are at the start of an update."""
        self._before = {
            name: [tensor.detach().clone() for tensor, _ in layer.tensors]
            for name, layer in self.layers.items()
        }

    def end(self, update: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Compare them with the weights at its end.

        Args:
            update: Index of the update.

        Yields:
            Name of a convolution, and two bool tensors of shape (num_slices,): active, and moved.
        """
        selected = self.rule.select(self.layers.values(), update)
        for (name, layer), active in zip(self.layers.items(), selected, strict=True):
            moved = [
                _any_in_slice(_bits(before) != _bits(tensor.detach()), dim)
                for before, (tensor, dim) in zip(self._before[name], layer.tensors, strict=True)
            ]
            held_that_moved = int(torch.stack(moved).any(dim=0)[~active].sum())
            if held_that_moved:
                self.wrong.append(f'{held_that_moved} held filters of {name} moved')
            yield name, active, moved[0]


def try_recipe(
    recipe: Recipe, data: str | Path, work_dir: str | Path, wrapper: str = WRAPPER
) -> TrialRecord:
    """Train a recipe for two updates with WAU, and check what moved.

    Args:
        recipe: What :func:`mmwau.compatibility.recipes.choose_recipe` returned.
        data: What :func:`mmwau.compatibility.data.make_data` returned.
        work_dir: Folder for logs and pictures.
        wrapper: Type of the optimizer wrapper.

    Returns:
        The record; whatever the recipe raises is the reason in it.
    """
    start = time.monotonic()
    found: dict[str, Any] = dict(project=recipe.project, family=recipe.family)
    if recipe.path is None:
        return TrialRecord(**found, reason=recipe.reason)
    found['recipe'] = str(recipe.path.relative_to(zoo_of(recipe.project)))
    remarks = [EXEMPT[recipe.name].reason] if recipe.name in EXEMPT else []
    try:
        cfg = prepare(recipe, Path(data), wrapper)
        found['backbone'] = _backbone(cfg.model)
        if 'Amp' in read_recipe(recipe.path).optim_wrapper.get('type', ''):
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
        found['skipping'] = skip_in_one_update(runner, watch)
        if not all(map(math.isfinite, watch.losses)):
            remarks.append('a loss was not finite')
        wrong = '; '.join(watch.wrong[:3])
        result, reason = (FAILED, wrong) if wrong else (WORKS, '; '.join(remarks))
    except Exception as error:
        traceback.print_exc()
        result, reason = explain(error)
        if result == FAILED and wrapper == WRAPPER and reason == error_of_plain(recipe, data):
            result = FAILS_PLAIN
    seconds = round(time.monotonic() - start, 1)
    return TrialRecord(**found, result=result, reason=reason, seconds=seconds)


def skip_in_one_update(runner: Runner, watch: Watch) -> int:
    """Make one more update under ``hold='state'``, which skips gradients of held filters.

    Returns:
        How many convolutions skipped them.
    """
    settings = dict(runner.cfg.optim_wrapper.items())
    for of_groups in ('constructor', 'paramwise_cfg'):
        settings.pop(of_groups, None)
    settings.update(hold='state', seed=SEED, optimizer=runner.optim_wrapper.optimizer)
    wrapper = OPTIM_WRAPPERS.build(settings)
    wrapper.initialize_count_status(runner.model, 0, watch.counts)
    before = len(watch.wrong)
    watch.start()
    # The loop's own: some samplers can not be started again in the middle of an epoch.
    batches = runner.train_loop.dataloader_iterator
    for _ in range(watch.counts):
        runner.model.train_step(next(batches), wrapper)
    moved = {name: int(moved.sum()) for name, _, moved in watch.end(update=0)}
    if not any(moved.values()):
        watch.wrong.append('no active filter moved')
    watch.wrong[before:] = [f"{what} under hold='state'" for what in watch.wrong[before:]]
    return len(watch.layers) - len(wrapper.updates.skipper.find_full())


def start_branches(model: nn.Module) -> None:
    """Let norms whose weights start at zero start at 0.1.

    Without pretrained weights residual branches that end in such a norm have no gradient in the
    first update, and none ever where the norm is frozen.
    """
    for module in model.modules():
        if not isinstance(module, (_BatchNorm, nn.GroupNorm)) or not module.affine:
            continue
        if not module.weight.any():
            nn.init.constant_(module.weight, 0.1)


def error_of_plain(recipe: Recipe, data: str | Path) -> str:
    """What the same small recipe raises in training without WAU, ``''`` if nothing."""
    with TemporaryDirectory() as work_dir:
        cfg = prepare(recipe, Path(data))
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


def _bits(tensor: Tensor) -> Tensor:
    """The bits as integers, which compare equal where they are the same, NaN too."""
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def _any_in_slice(tensor: Tensor, dim: int) -> Tensor:
    """Which slices have an element that is not zero, NaN included."""
    return tensor.movedim(dim, 0).reshape(tensor.size(dim), -1).ne(0).any(dim=1)
