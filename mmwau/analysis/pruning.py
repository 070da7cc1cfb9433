"""Remove filters of a trained network in some order, and put them back bit for bit."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mmwau.core.checks import check_choice
from mmwau.core.norms import norms_behind
from mmwau.core.random_numbers import random_numbers
from mmwau.core.slices import Convolution
from mmwau.overlap import filter_overlap
from mmwau.targets import filter_dim, find_convolutions, why_no_filters

ORDERS = ('l1', 'overlap', 'apoz', 'taylor', 'random')


@dataclass(frozen=True)
class Removable:
    """A convolution whose filters can be removed.

    Args:
        name: Its name in the model.
        convolution: The module.
        norms: The norm layers that take its output directly, most often one.
    """

    name: str
    convolution: Convolution
    norms: tuple[nn.Module, ...]

    @property
    def num_filters(self) -> int:
        """How many filters it has."""
        return self.convolution.weight.shape[filter_dim(self.convolution)]


def find_removable(
    model: nn.Module, targets: str | Sequence[str], run_model: Callable[[], object]
) -> tuple[dict[str, Removable], dict[str, str]]:
    """Find the convolutions below ``targets`` whose filters can be removed.

    Frozen convolutions count too: their filters may be as redundant as others.

    Args:
        model: The model, not wrapped for distributed training.
        targets: See :func:`mmwau.targets.find_convolutions`.
        run_model: Makes one forward pass, which shows what norm follows what convolution.

    Returns:
        The convolutions by name in the model's order; and of those that are left out the
        reasons by name.

    Raises:
        TypeError: See :func:`mmwau.targets.find_convolutions`.
        ValueError: If there is no convolution to remove filters from.
    """
    convolutions = find_convolutions(model, targets)
    with norms_behind(model, convolutions) as found_norms:
        run_model()
    norms = {name: tuple(map(model.get_submodule, behind)) for name, behind in found_norms.items()}
    uses = Counter(
        id(module._parameters['weight'])
        for module in find_convolutions(model).values()
        if module._parameters.get('weight') is not None
    )
    found, left_out = {}, {}
    for name, module in convolutions.items():
        reason = why_no_filters(module)
        if reason:
            left_out[name] = reason
        elif uses[id(module.weight)] > 1:
            left_out[name] = 'shares its weight with another layer'
        elif name not in norms:
            left_out[name] = 'takes no part in the forward pass on the test data'
        elif any(_is_bare(norm) for norm in norms[name]):
            left_out[name] = 'the norm behind it has no weight that could be zero'
        else:
            found[name] = Removable(name, module, norms[name])
    if not found:
        reasons = '; '.join(f'{name}: {reason}' for name, reason in list(left_out.items())[:5])
        raise ValueError(f'No filters below targets={targets!r} can be removed ({reasons})')
    return found, left_out


def average_zeros(
    layers: Mapping[str, Removable], run_model: Callable[[], object]
) -> dict[str, Tensor]:
    """Average percentage of zeros (APoZ) of every filter, as a fraction.

    It is the fraction of a filter's outputs, over all images and places, that are zero behind a
    ReLU (Hu et al., Network Trimming, 1607.03250, equation 1). Here outputs are taken behind the
    norm that follows the convolution, or where none follows behind the convolution itself, and
    those that are not above zero are counted: what a ReLU there would make zero. Where a ReLU
    follows directly, this is the paper's measure. It is not the paper's where something is added
    before the ReLU, as at the end of a residual block, or where none follows, as in a FPN.

    Returns:
        For each layer a float64 tensor of shape (filters,) on the CPU, each in [0, 1].
    """
    zeros: dict[str, Tensor] = {}
    outputs: Counter[str] = Counter()

    def count(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        not_above = (output <= 0).transpose(0, 1).flatten(1)
        zeros[name] = not_above.sum(dim=1).cpu() + zeros.get(name, 0)
        outputs[name] += not_above.shape[1]

    with ExitStack() as hooks:
        for name, layer in layers.items():
            for module in layer.norms or (layer.convolution,):
                hooks.enter_context(module.register_forward_hook(partial(count, name)))
        run_model()
    return {name: zeros[name].double() / outputs[name] for name in layers}


def removal_order(
    layer: Removable, order: str, seed: int | None = None, measured: Tensor | None = None
) -> list[int]:
    """In what order a layer's filters are removed.

    Args:
        layer: The layer.
        order: ``'l1'``: least L1 norm first (Li et al., 1608.08710, section 3.1).
            ``'overlap'``: most :func:`mmwau.overlap.filter_overlap` first, the measure of RePr
            (1811.07275), which ranks filters over all layers, while here each layer has an order
            of its own. ``'apoz'``: highest average percentage of zeros first (1607.03250).
            ``'taylor'``: least Taylor criterion first (1611.06440), in each layer too.
            ``'random'``: a function of the seed and the layer's name, so that checkpoints of a
            network lose the same filters.
        seed: For ``'random'``.
        measured: For ``'apoz'`` what :func:`average_zeros`, for ``'taylor'`` what
            :func:`mmwau.analysis.taylor.taylor_criterion` gave for the layer.

    Returns:
        The indices of all filters, first the one that is removed first. Ties go by index.

    Raises:
        ValueError: If the order is unknown.
    """
    check_choice('order', order, ORDERS)
    weight, dim = layer.convolution.weight.detach(), filter_dim(layer.convolution)
    if order == 'l1':
        scores = weight.double().transpose(0, dim).flatten(1).abs().sum(dim=1)
    elif order == 'overlap':
        scores = -filter_overlap(weight, dim, layer.convolution.groups)
    elif order in ('apoz', 'taylor'):
        assert measured is not None
        scores = -measured if order == 'apoz' else measured
    else:
        scores = random_numbers([f'removal {seed}'], [layer.name], [layer.num_filters])
    return scores.argsort(stable=True).tolist()


def num_removed(num_filters: int, fraction: float) -> int:
    """How many filters a fraction of a layer is: rounded, and one filter always stays."""
    return min(round(fraction * num_filters), num_filters - 1)


@contextmanager
@torch.no_grad()
def removed(
    layers: Mapping[str, Removable], filters: Mapping[str, Sequence[int]]
) -> Iterator[None]:
    """Within the context filters, given by index, are removed; then they are back, bit for bit.

    A removed filter's channel is zero behind the norm that follows its convolution: the filter's
    weight and bias are zero, and the norm's weight, bias and running mean for the channel.
    """
    rows = []  # each tensor with the dimension and the indices to make zero
    for name, indices in filters.items():
        convolution = layers[name].convolution
        index = torch.tensor(indices, dtype=torch.long, device=convolution.weight.device)
        rows.append((convolution.weight, filter_dim(convolution), index))
        tensors = [getattr(convolution, 'bias', None)]
        for norm in layers[name].norms:
            tensors += [getattr(norm, part, None) for part in ('weight', 'bias', 'running_mean')]
        rows += [(tensor, 0, index) for tensor in tensors if tensor is not None]
    # A norm may stand behind two convolutions: all is kept before anything changes.
    kept = [(tensor, tensor.clone()) for tensor, _, _ in rows]
    try:
        for tensor, dim, index in rows:
            tensor.index_fill_(dim, index, 0)
        yield
    finally:
        for tensor, before in kept:
            tensor.copy_(before)


def _is_bare(norm: nn.Module) -> bool:
    """Whether a norm makes of a channel that is zero one that is not, whatever its own values.

    It takes the mean over several channels, and has no weight to make the outcome zero.
    """
    return isinstance(norm, (nn.GroupNorm, nn.LayerNorm)) and norm.weight is None
