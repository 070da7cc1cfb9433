"""The weights that the methods of this package act on, besides those that WAU holds."""

from collections.abc import Sequence

from torch import nn

from mmwau.core.sharding import refuse_sharded_layers
from mmwau.core.slices import Convolution
from mmwau.targets import GROUPED, check_targets, find_convolutions, is_below, why_no_filters

Weighted = Convolution | nn.Linear


def find_weights(model: nn.Module, targets: str | Sequence[str] = '') -> dict[str, Weighted]:
    """Find the convolutions and linear layers below ``targets`` whose weight trains.

    Args:
        model: The model, not wrapped for distributed training.
        targets: Prefixes of module names, see :func:`mmwau.targets.find_convolutions`.

    Returns:
        The layers by name, in the model's order, each weight once.

    Raises:
        TypeError: If ``targets`` is not a string or a sequence of strings, or parameters of these
            layers are cut over processes.
        ValueError: If there is no such layer.
    """
    prefixes = check_targets(targets)
    convolutions = find_convolutions(model)
    found: dict[str, Weighted] = {}
    seen: set[int] = set()
    with_filters = {
        name: module
        for name, module in convolutions.items()
        if why_no_filters(module) in ('', GROUPED)
    }
    for name, module in model.named_modules():
        layer = module if isinstance(module, nn.Linear) else with_filters.get(name)
        if layer is None or not any(is_below(name, prefix) for prefix in prefixes):
            continue
        weight = layer._parameters.get('weight')
        if weight is not None and weight.requires_grad and id(weight) not in seen:
            found[name] = layer
            seen.add(id(weight))
    if not found:
        raise ValueError(
            f'No convolution or linear layer of {type(model).__name__} that trains is below the '
            f'prefixes in targets={prefixes!r}. Modules that exist are for example: '
            + ', '.join([name for name, _ in model.named_children()] + list(convolutions)[:5])
        )
    refuse_sharded_layers(model, found.values())
    return found


def first_convolution(model: nn.Module) -> str:
    """Name of the first convolution of a model, that which sees the images."""
    return next(iter(find_convolutions(model)))
