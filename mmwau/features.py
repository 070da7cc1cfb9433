"""How much the channels of a layer's output overlap, and how alike two networks' layers are."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

# Of a batch's positions at least so many, evenly spread, are looked at in each layer, if it has
# them; fewer than twice as many.
POSITIONS = 8192


class Moments:
    """Sums from which the covariances between the channels of two outputs follow.

    Args:
        first: Number of channels of the one output.
        second: Number of channels of the other.
    """

    def __init__(self, first: int, second: int):
        self.count = 0
        self.sums = [torch.zeros(size, dtype=torch.float64) for size in (first, second)]
        self.products = torch.zeros(first, second, dtype=torch.float64)
        # Values are counted from those of the first position: a channel that is constant then has
        # sums of exactly zero, and one that varies little about a large mean keeps its digits.
        self._origins: tuple[Tensor, Tensor] | None = None

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add values of shape (positions, channels), the same positions in both."""
        if not len(first):  # a head that got no proposals
            return
        first, second = first.double().cpu(), second.double().cpu()
        if self._origins is None:
            self._origins = first[0].clone(), second[0].clone()
        first, second = first - self._origins[0], second - self._origins[1]
        self.count += len(first)
        for total, values in zip(self.sums, (first, second), strict=True):
            total += values.sum(dim=0)
        self.products += first.T @ second

    def covariance(self) -> Tensor:
        """Covariances of shape (first, second), float64."""
        first, second = (total / self.count for total in self.sums)
        return self.products / self.count - first[:, None] * second


def channel_overlap(covariance: Tensor) -> Tensor:
    """Overlap of each channel of an output with the others of its layer.

    The mean absolute correlation, in the form of the filter overlap (RePr, 1811.07275, section
    4): the sum over the other channels divided by the number of channels. A batch norm after the
    layer changes it by nothing, which scales and shifts each channel.

    Args:
        covariance: Covariances of shape (channels, channels).

    Returns:
        Tensor of shape (channels,), each in [0, 1). A channel that is constant overlaps with none.
    """
    correlation = _correlation(covariance, covariance, covariance).abs()
    correlation.fill_diagonal_(0)
    return correlation.sum(dim=1) / len(correlation)


def linear_cka(cross: Tensor, first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment: how alike two outputs are, whatever the channels' order.

    ``||cov(X, Y)||^2 / (||cov(X, X)|| ||cov(Y, Y)||)`` with Frobenius norms (Kornblith et al.,
    Similarity of Neural Network Representations Revisited, 1905.00414, section 3, linear CKA with
    features).

    Args:
        cross: Covariances of shape (channels of X, channels of Y).
        first: Those of X with itself.
        second: Those of Y with itself.

    Returns:
        In [0, 1]; 1 if one is the other rotated and scaled; nan if one of them is constant.
    """
    return (cross.square().sum() / (first.norm() * second.norm())).item()


def match_channels(cross: Tensor, first: Tensor, second: Tensor) -> tuple[float, list[int]]:
    """Pair the channels of two outputs one to one, so that the pairs correlate most.

    The bipartite matching that makes the sum of correlations largest (Li et al., Convergent
    Learning: Do different neural networks learn the same representations?, 1511.07543, section 3).
    Unlike :func:`linear_cka` it does not forgive a rotation: each channel has one partner. Needs
    SciPy.

    Args:
        cross: Covariances of shape (channels of X, channels of Y), not more of X than of Y.
        first: Those of X with itself.
        second: Those of Y with itself.

    Returns:
        The mean correlation of the pairs, in [-1, 1]; 1 if one output is the other with its
        channels in another order, each scaled by a number above 0. And for each channel of X the
        index of its partner in Y. A channel that is constant correlates with none. Nan and no
        partners if a covariance is no number.

    Raises:
        ImportError: If SciPy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError(
            "Matching channels needs SciPy, which is not installed: pip install 'mmwau[analysis]'"
        ) from error

    correlation = _correlation(cross, first, second)
    if not correlation.isfinite().all():
        return math.nan, []
    channels, partners = linear_sum_assignment(correlation.numpy(), maximize=True)
    return correlation[channels, partners].mean().item(), partners.tolist()


def _correlation(cross: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Correlations of shape (channels of X, channels of Y), from covariances; 0 of a constant."""
    one, other = (
        torch.where(deviation == 0, 0, 1 / deviation)
        for deviation in (own.diagonal().clamp(min=0).sqrt() for own in (first, second))
    )
    return (cross * other * one[:, None]).clamp(-1, 1)


@torch.no_grad()
def compare_features(
    models: Mapping[str, nn.Module],
    layers: Sequence[str],
    batches: Iterable[object],
    forward: Callable[[nn.Module, object], object],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Measure the outputs of some layers, in all models on the same images.

    Every position of every image is an example, every channel a feature. Needs SciPy, for
    :func:`match_channels`.

    Args:
        models: Models with the same layers, by label; each is in the mode that it comes in.
        layers: Names of modules whose outputs have the shape (images, channels, ...). Those that
            ``forward`` does not reach, in a model or in the first one, are left out there.
        batches: What ``forward`` takes.
        forward: Runs a model on a batch.

    Returns:
        For each label by layer: the mean of :func:`channel_overlap`; :func:`linear_cka` with the
        first model; and the mean correlation of :func:`match_channels` with the first model.
    """
    first = next(iter(models))
    moments: dict[tuple, Moments] = {}

    def add(key: tuple, one: Tensor, other: Tensor) -> None:
        if key not in moments:
            moments[key] = Moments(one.shape[1], other.shape[1])
        moments[key].add(one, other)

    for batch in batches:
        outputs: Mapping[str, Tensor] = {}
        for label, model in models.items():
            with _kept_outputs(model, layers) as kept:
                forward(model, batch)
            for layer, values in kept.items():
                add((label, layer), values, values)
                if label != first and layer in outputs:
                    add((first, label, layer), outputs[layer], values)
            if label == first:
                outputs = kept
    covariances = {key: each.covariance() for key, each in moments.items()}
    overlaps: dict[str, dict[str, float]] = {label: {} for label in models}
    alike: dict[str, dict[str, float]] = {label: {} for label in models}
    matched: dict[str, dict[str, float]] = {label: {} for label in models}
    for layer in layers:
        for label in models:
            if (label, layer) not in covariances or (first, layer) not in covariances:
                continue
            own = covariances[label, layer]
            overlaps[label][layer] = channel_overlap(own).mean().item()
            cross = own if label == first else covariances[first, label, layer]
            alike[label][layer] = linear_cka(cross, covariances[first, layer], own)
            matched[label][layer], _ = match_channels(cross, covariances[first, layer], own)
    return overlaps, alike, matched


@contextmanager
def _kept_outputs(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what the layers give, as values of shape (positions, channels)."""
    kept: dict[str, Tensor] = {}

    def keep(layer: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        values = output.movedim(1, -1).flatten(0, -2)
        # A copy, since what comes behind the layer may change its output in place.
        values = values[:: max(1, len(values) // POSITIONS)].clone()
        # A layer that is run several times, on each level of a pyramid say, is one layer.
        kept[layer] = torch.cat([kept[layer], values]) if layer in kept else values

    with ExitStack() as stack:
        for layer in layers:
            handle = model.get_submodule(layer).register_forward_hook(partial(keep, layer))
            stack.callback(handle.remove)
        yield kept
