"""Penalties that draw the filters of a layer towards being orthogonal: SO and SRIP."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from mmwau.core.checks import check_choice
from mmwau.core.random_numbers import random_numbers
from mmwau.engine.bare_model import bare_model
from mmwau.engine.plan import Plan
from mmwau.overlap import filter_rows, magnitude
from mmwau.targets import check_targets, filter_dim

from .added_loss import AddedLossHook
from .weights import Weighted, find_weights

KINDS = ('so', 'srip')


@HOOKS.register_module()
class OrthogonalityHook(AddedLossHook):
    """Add a penalty to the loss for filters that are not orthonormal (Bansal et al., 1810.09102).

    With the flattened filters of a layer as the columns of ``W``, as in the paper, the penalty is
    the sum over the layers of

    - ``'so'``: ``|| W^T W - I ||_F^2`` (soft orthogonality);
    - ``'srip'``: the largest singular value of ``W^T W - I``, estimated by two power iterations
      from a random vector (spectral restricted isometry property);

    times a coefficient, lambda. If a layer has more filters than a filter has values, they can't
    all be orthogonal, and we take ``W W^T - I``, the smaller one, as the authors' code does. For
    ``'so'`` that changes the penalty by a constant and its gradient not at all.

    In training it joins the losses that the model returns, as ``loss_orthogonality``, under which
    name it is logged too. (What is logged as ``loss`` is the sum, unless a model has a loss of that
    very name, as MMPreTrain's classifiers do: then it is only that one.) The random vectors are a
    function of the run's seed, the iteration and the layer's name.

    Args:
        kind: ``'so'`` or ``'srip'``.
        coefficients: The coefficient before, between and after the milestones: one more than
            there are of these, each at least 0. Defaults to 0.1, 1e-3, 1e-4, 1e-6 and 0.
        milestones: Epochs at which the coefficient changes, ascending. Defaults to 20, 50, 70 and
            120. (Both as we read the paper, which trains for 200 epochs, and has next to no weight
            decay in the first 20, under SRIP in all of them.)
        targets: Prefixes of module names; the convolutions and linear layers below them that
            train have a part in the penalty. Defaults to all of the model, as in the paper.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``kind`` is unknown, a coefficient is negative, or coefficients and
            milestones do not fit.
    """

    loss_name = 'loss_orthogonality'

    def __init__(
        self,
        kind: str,
        coefficients: Sequence[float] = (0.1, 1e-3, 1e-4, 1e-6, 0),
        milestones: Sequence[int] = (20, 50, 70, 120),
        targets: str | Sequence[str] = '',
    ):
        check_choice('kind', kind, KINDS)
        _check_steps(coefficients, milestones)
        self.kind = kind
        self.coefficients, self.milestones = tuple(coefficients), tuple(milestones)
        self.targets = check_targets(targets)

    def coefficient_at(self, epoch: int) -> float:
        """The coefficient in an epoch, counted from 0."""
        return self.coefficients[sum(epoch >= mark for mark in self.milestones)]

    def check(self, plan: Plan) -> None:
        """Raise if the training is none for this.

        Raises:
            ValueError: If two such hooks meet, or training has no epochs that the milestones could
                count.
        """
        if sum(issubclass(hook, OrthogonalityHook) for hook in plan.hooks) > 1:
            raise ValueError('custom_hooks has two OrthogonalityHooks; keep one of them')
        if self.milestones and plan.counts_iterations:
            raise ValueError(
                'OrthogonalityHook: milestones count epochs, but training counts only iterations '
                '(IterBasedTrainLoop). Set milestones=[] and one coefficient'
            )

    def before_train(self, runner: Runner) -> None:
        """Find the layers.

        Raises:
            TypeError: If the train loop has no ``run_iter``.
            ValueError: See :meth:`check`; or if no layer matches ``targets``.
        """
        super().before_train(runner)
        self._layers = find_weights(bare_model(runner.model), self.targets)
        runner.logger.info(
            f'The filters of {len(self._layers)} layers are drawn towards being orthogonal: '
            f'kind={self.kind!r}, coefficients={self.coefficients}, milestones={self.milestones}'
        )

    def added(self, runner: Runner, args: tuple, kwargs: dict) -> Tensor:
        """The penalty times its coefficient."""
        coefficient = self.coefficient_at(runner.epoch)
        if not coefficient:
            return torch.zeros((), device=next(runner.model.parameters()).device)
        return coefficient * penalty(self._layers, self.kind, f'{runner.seed}/{runner.iter}')


def penalty(layers: dict[str, Weighted], kind: str, time: str) -> Tensor:
    """Compute the penalty, without the coefficient.

    Args:
        layers: Convolutions and linear layers by name.
        kind: ``'so'`` or ``'srip'``.
        time: Text that is new in each iteration, for the random vectors of ``'srip'``.

    Returns:
        Float32 tensor with no dimension, which has a gradient.
    """
    device = next(iter(layers.values())).weight.device
    with torch.autocast(device.type, enabled=False):
        distances = [_distance(module) for module in layers.values()]
        zero = torch.zeros((), device=device)
        if kind == 'so':
            return sum((distance.square().sum() for distance in distances), zero)
        counts = [distance.shape[0] * distance.shape[1] for distance in distances]
        numbers = random_numbers([time] * len(layers), list(layers), counts)
        starts = numbers.to(device, torch.float32).split(counts)
        largest = (
            _largest(distance, start.view(*distance.shape[:2], 1))
            for distance, start in zip(distances, starts, strict=True)
        )
        return sum(largest, zero)


def _distance(module: Weighted) -> Tensor:
    """How far a layer's filters are from orthonormal, of shape (groups, n, n)."""
    rows = filter_rows(module.weight, filter_dim(module), getattr(module, 'groups', 1)).float()
    if rows.shape[1] > rows.shape[2]:
        rows = rows.transpose(1, 2)
    return rows @ rows.transpose(1, 2) - torch.eye(rows.shape[1], device=rows.device)


def _largest(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Estimate the largest singular values by two power iterations, and add them up.

    As in the authors' code, the gradient goes through both iterations.
    """
    # The powers of the matrices may be out of range where the outcome is not.
    scale = magnitude(matrices, (1, 2))
    matrices = matrices / scale
    first = matrices @ vectors
    second = matrices @ first
    lengths = torch.linalg.vector_norm(first, dim=1).clamp(min=1e-12)
    return (torch.linalg.vector_norm(second, dim=1) / lengths * scale[:, :, 0]).sum()


def _check_steps(coefficients: Sequence[float], milestones: Sequence[int]) -> None:
    for name, values, kinds in (
        ('coefficients', coefficients, (int, float)),
        ('milestones', milestones, (int,)),
    ):
        if not isinstance(values, (list, tuple)) or not all(
            isinstance(value, kinds) and not isinstance(value, bool) for value in values
        ):
            raise TypeError(f'{name} must be a list of numbers, got {values!r}')
    if any(value < 0 for value in coefficients):
        raise ValueError(f'coefficients must be at least 0, got {coefficients!r}')
    if not all(one < following for one, following in pairwise((0, *milestones))):
        raise ValueError(f'milestones must be epochs from 1 on that increase, got {milestones!r}')
    if len(coefficients) != len(milestones) + 1:
        raise ValueError(
            f'{len(milestones)} milestones need {len(milestones) + 1} coefficients, got '
            f'{len(coefficients)}'
        )
