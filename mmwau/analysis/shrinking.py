"""Remove filters for good, with torch-pruning: the tensors become smaller."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from statistics import fmean

from torch import Tensor, nn

from mmwau.core.norms import NORMS

from .pruning import num_removed
from .training_loss import all_trainable

CONVOLUTION = nn.modules.conv._ConvNd
LAYERS = (CONVOLUTION, nn.Linear)


def check_installed() -> None:
    """Raise an ImportError unless torch-pruning is installed."""
    if find_spec('torch_pruning') is None:
        raise ImportError(
            'Removing filters for good needs torch-pruning, which is not installed: '
            "pip install 'mmwau[pruning]'"
        )


def shrink(
    model: nn.Module,
    compute_loss: Callable[[], Tensor],
    ranked: Mapping[str, Sequence[int]],
    fraction: float,
) -> dict[str, str]:
    """Remove a fraction of the filters of each layer for good, with all that belongs to them.

    torch-pruning follows the graph of a loss (Fang et al., DepGraph, 2301.12900), and so finds what
    else has a channel for a filter: norms, the layers that read it, and where outputs are added, as
    at the end of residual blocks, the filters of other layers. Such coupled layers lose the same
    filters, those first whose mean rank among these layers is lowest.

    Args:
        model: The network. Parameters that become smaller are replaced.
        compute_loss: Runs the whole network on an example, in evaluation mode.
        ranked: For each layer that may lose filters, by name, the indices of all of its filters,
            first the one that goes first.
        fraction: Of each layer's filters those to remove, in [0, 1); one filter always stays.

    Returns:
        Reasons by name for the layers in ``ranked`` that keep all filters.

    Raises:
        ImportError: If torch-pruning is not installed.
        ValueError: If no layer can lose filters, or the network does not run without them.
    """
    check_installed()
    from torch_pruning import DependencyGraph

    from .roi_pruner import roi_extractor_pruners

    names = {module: name for name, module in model.named_modules()}
    kept = [each for each in names if isinstance(each, LAYERS) and names[each] not in ranked]
    left_out = dict.fromkeys(
        ranked, 'it is coupled with a layer that may lose none, or does not run'
    )
    removed: dict[nn.Module, list[int]] = {}
    tied = _tied_parameters(model)
    # Tracing follows gradients, and so do parameters that take the place of others.
    with all_trainable(model), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        graph = DependencyGraph().build_dependency(
            model,
            None,
            forward_fn=lambda *_: _loss_and_outputs(compute_loss, model),
            customized_pruners=roi_extractor_pruners(model),
            verbose=False,
        )
        for group in graph.get_all_groups(kept, [CONVOLUTION]):
            coupled, grouped = {}, None
            for item in group.items:
                module = item.dep.target.module
                grouped = names[module] if _is_grouped(module) else grouped
                if isinstance(module, LAYERS) and graph.is_out_channel_pruning_fn(item.dep.handler):
                    coupled[names[module]] = dict(zip(item.root_idxs, item.idxs, strict=True))
            if grouped is not None:
                left_out.update(dict.fromkeys(coupled, f'its channels are in groups in {grouped}'))
                continue
            if any(set(filters.values()) != set(ranked[each]) for each, filters in coupled.items()):
                unknown = 'torch-pruning does not follow all of its channels'
                left_out.update(dict.fromkeys(coupled, unknown))
                continue
            order = _mean_order(coupled, ranked)
            removed[group[0].dep.target.module] = order[: num_removed(len(order), fraction)]
            for name in coupled:
                left_out.pop(name, None)
        if not removed:
            reasons = '; '.join(f'{name}: {why}' for name, why in list(left_out.items())[:5])
            raise ValueError(f'No filters can be removed for good ({reasons})')
        for root, filters in removed.items():
            if filters:
                remove = graph.get_pruner_of_module(root).prune_out_channels
                graph.get_pruning_group(root, remove, filters).prune()
    _tie(model, tied)
    try:
        compute_loss()
    # Whatever a network raises that asserts, indexes or reshapes by its number of channels.
    except Exception as error:
        raise ValueError(
            'The network does not run without the filters that torch-pruning removed, which knows '
            f'not all of its layers. Name other layers with --targets. {error}'
        ) from error
    return left_out


def _tied_parameters(model: nn.Module) -> list[list[str]]:
    """The names of each parameter that has more than one."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(param, []).append(name)
    return [each for each in names.values() if len(each) > 1]


def _tie(model: nn.Module, tied: Sequence[Sequence[str]]) -> None:
    """Make one parameter again of those that were one: in each module a smaller one took its place.

    Raises:
        ValueError: If they did not lose the same.
    """
    for first, *others in tied:
        param = model.get_parameter(first)
        for name in others:
            if not param.equal(model.get_parameter(name)):
                raise ValueError(
                    f'{first} and {name} are one parameter, and would lose different parts: name '
                    'other layers with --targets'
                )
            owner, _, key = name.rpartition('.')
            setattr(model.get_submodule(owner), key, param)


def _loss_and_outputs(compute_loss: Callable[[], Tensor], model: nn.Module) -> list[Tensor]:
    """What is traced: the loss first, then layers' outputs, for those that have no part in it.

    They read channels all the same: a backbone may run to its end though nobody asks for the last
    stage.
    """
    outputs: list[Tensor] = []
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, (*LAYERS, *NORMS)):
                handle = module.register_forward_hook(lambda *parts: outputs.append(parts[-1]))
                stack.callback(handle.remove)
        loss = compute_loss()
    return [loss.reshape(1, 1), *outputs]


def _is_grouped(module: nn.Module) -> bool:
    """Whether channels are used in groups, of which each must keep as many; depthwise has none."""
    if isinstance(module, CONVOLUTION):
        return module.groups > 1 and not module.groups == module.in_channels == module.out_channels
    return isinstance(module, nn.GroupNorm) and module.num_groups > 1


def _mean_order(
    coupled: Mapping[str, Mapping[int, int]], ranked: Mapping[str, Sequence[int]]
) -> list[int]:
    """The channels of a group by their mean rank in its layers; ties go by index.

    Args:
        coupled: For each layer by name the index of a filter by that of the group's channel.
        ranked: See :func:`shrink`.
    """
    ranks: dict[int, list[int]] = {}
    for name, filters in coupled.items():
        rank = {index: place for place, index in enumerate(ranked[name])}
        for channel, index in filters.items():
            ranks.setdefault(channel, []).append(rank[index])
    return sorted(sorted(ranks), key=lambda channel: fmean(ranks[channel]))
