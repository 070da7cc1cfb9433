"""The weights that the methods of this package act on, besides those that WAU holds."""

from collections.abc import Sequence

from torch import nn

from mmwau.core.sharding import refuse_sharded_layers
from mmwau.targets import (
    GROUPED,
    check_targets,
    find_convolutions,
    is_below,
    why_no_filters,
)


def find_weights(model: nn.Module, targets: str | Sequence[str] = '') -> dict[str, nn.Module]:
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
    found, seen = {}, set()
    with_filters = {
        name for name, module in convolutions.items() if why_no_filters(module) in ('', GROUPED)
    }
    for name, module in model.named_modules():
        weight = module._parameters.get('weight')
        if (
            (name in with_filters or isinstance(module, nn.Linear))
            and any(is_below(name, prefix) for prefix in prefixes)
            and weight is not None
            and weight.requires_grad
            and id(weight) not in seen
        ):
            found[name] = module
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
