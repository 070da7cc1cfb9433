"""Which layers WAU holds: the convolutions of a model, found by module-name prefix."""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeGuard

from torch import Tensor, nn
from torch.nn import Parameter, UninitializedParameter
from torch.optim import Optimizer

from mmwau.core.checks import check_choice
from mmwau.core.sharding import refuse_sharded_layers
from mmwau.core.slices import Convolution, Layer

AXES = ('out', 'in', 'layer')
# Where detectors and classifiers of OpenMMLab have their convolutions, their heads left out.
DEFAULT_TARGETS = ('backbone', 'neck')
# Reasons why a convolution is left out.
NO_SHAPE = 'its weight has no shape before the first forward pass'
GROUPED = 'grouped and transposed: its filters do not lie on one dimension'
COMPUTED_BIAS = 'its bias is computed from other parameters'


def find_convolutions(
    model: nn.Module, targets: str | Sequence[str] = ('',)
) -> dict[str, Convolution]:
    """Find the convolutions below the given module-name prefixes.

    Args:
        model: The model, not wrapped for distributed training.
        targets: Prefixes of module names, matched by whole segments: ``'backbone.layer1'`` does
            not match ``backbone.layer10``. ``''`` matches every module.

    Returns:
        The convolutions by name, in the model's order. They are 1-D to 3-D, transposed ones, and
        other modules built like them (deformable convolutions).

    Raises:
        TypeError: If ``targets`` is not a string or a sequence of strings.
        ValueError: If no convolution matches; it lists the prefixes and some names that exist.
    """
    prefixes = check_targets(targets)
    everywhere: dict[str, Convolution] = {}
    found: dict[Convolution, str] = {}
    # One that has several names is found by each of them, and goes by the first that matches.
    for name, module in model.named_modules(remove_duplicate=False):
        if _is_conv(module):
            everywhere[name] = module
            if any(is_below(name, prefix) for prefix in prefixes):
                found.setdefault(module, name)
    if not found:
        some = [name for name, _ in model.named_children()] + list(everywhere)[:5]
        raise ValueError(
            f'No convolution of {type(model).__name__} is below the prefixes in targets='
            f'{prefixes!r}. Modules that exist are for example: {", ".join(some) or "none"}'
        )
    return {name: module for module, name in found.items()}


def find_layers(
    model: nn.Module,
    targets: str | Sequence[str] = ('',),
    axis: str = 'out',
    optimizer: Optimizer | None = None,
) -> dict[str, Layer]:
    """Find the layers to hold: the convolutions below ``targets`` that train.

    Args:
        model: The model, not wrapped for distributed training.
        targets: See :func:`find_convolutions`.
        axis: What a slice is. ``'out'``: a filter, which is an output channel of the weight and
            its element of the bias (the paper's words). ``'in'``: an input channel of the weight
            (the authors' code); biases are never held. ``'layer'``: the whole convolution, which
            is every parameter of its own, also those that its weight is computed from (the
            authors' second way); layers are selected from all of those that are found.
        optimizer: Leave out parameters that this optimizer does not update, or at a learning rate
            of 0 while others have one.

    Returns:
        The layers by name of their convolution, in the model's order.

    Raises:
        TypeError: See :func:`find_convolutions`; or if parameters of these convolutions are cut
            over processes (FSDP, ``fully_shard``, tensor parallelism).
        ValueError: If ``axis`` is unknown or if there is no convolution to hold.
    """
    convolutions = find_convolutions(model, targets)
    refuse_sharded_layers(model, convolutions.values())
    left_out = find_left_out(model, targets, axis, optimizer)
    moves = _moves(model, optimizer)
    layers = {
        name: _layer(name, module, axis, moves)
        for name, module in convolutions.items()
        if name not in left_out
    }
    if not layers:
        reasons = '; '.join(f'{name}: {reason}' for name, reason in list(left_out.items())[:5])
        raise ValueError(
            f'No convolution below targets={check_targets(targets)!r} can be held ({reasons}). '
            'Name modules that train, or unfreeze these.'
        )
    return layers


def find_left_out(
    model: nn.Module,
    targets: str | Sequence[str] = ('',),
    axis: str = 'out',
    optimizer: Optimizer | None = None,
) -> dict[str, str]:
    """Find the convolutions below ``targets`` that :func:`find_layers` leaves out, and why.

    Takes the arguments of :func:`find_layers`; that no layer is left to hold is no error here.

    Returns:
        The reasons by name of the convolution.
    """
    check_choice('axis', axis, AXES)
    moves = _moves(model, optimizer)
    left_out: dict[str, str] = {}
    seen: set[int] = set()
    for name, module in find_convolutions(model, targets).items():
        if axis == 'layer':
            reason = _why_not_whole(module, moves, seen)
            if reason:
                left_out[name] = reason
            else:
                seen |= {id(param) for param in _own_parameters(module)}
            continue
        weight = module._parameters.get('weight')
        bias, form = _held_bias(module, axis, moves), why_no_filters(module)
        if weight is None or form not in ('', GROUPED):
            left_out[name] = form
        elif frozen := _why_frozen([weight], moves):
            left_out[name] = frozen
        elif id(weight) in seen:
            left_out[name] = 'shares the weight of a layer already held'
        elif bias is not None and id(bias) in seen:
            left_out[name] = 'shares the bias of a layer already held'
        elif axis == 'out' and (form or _computes_bias(module)):
            left_out[name] = form or COMPUTED_BIAS
        else:
            seen |= {id(weight), id(bias)}
    return left_out


def why_no_filters(module: Convolution) -> str:
    """Why a convolution's filters do not lie on one dimension of its weight, or an empty string.

    Args:
        module: One of :func:`find_convolutions`, whether it trains or not.
    """
    weight = module._parameters.get('weight')
    if weight is None:
        return 'its weight is computed from other parameters'
    if isinstance(weight, UninitializedParameter):
        return NO_SHAPE
    if set(module._parameters) - {'weight', 'bias'}:
        return 'its filters have parameters besides weight and bias'
    if not _is_laid_out(module):
        return 'its weight is not laid out as (filters, input channels, ...)'
    return GROUPED if _is_transposed(module) and module.groups > 1 else ''


def list_updated(optimizer: Optimizer) -> list[tuple[Parameter, bool]]:
    """List the parameters of an optimizer, each with whether it moves.

    What has a learning rate of 0, as by ``lr_mult=0``, while others have one, is frozen.
    """
    moves = [_has_rate(group) for group in optimizer.param_groups]
    return [
        (param, moves_at_all or not any(moves))
        for group, moves_at_all in zip(optimizer.param_groups, moves, strict=True)
        for param in group['params']
    ]


def _has_rate(group: Mapping) -> bool:
    """Whether the learning rate of a group of parameters is not 0, now or where it started."""
    # A schedule may be at 0 now, or may raise a rate of 0 (``eta_min``).
    rates = [group[name] for name in ('initial_lr', 'lr') if name in group]
    # One that is a tensor may be on a device.
    return not rates or any(isinstance(rate, Tensor) or rate != 0 for rate in rates)


def check_targets(targets: str | Collection[str]) -> tuple[str, ...]:
    """Return the prefixes as a tuple; raise unless they are at least one string."""
    prefixes = (targets,) if isinstance(targets, str) else targets
    if (
        not isinstance(prefixes, (list, tuple))
        or not prefixes
        or not all(isinstance(prefix, str) for prefix in prefixes)
    ):
        raise TypeError(
            "targets must be module-name prefixes such as ('backbone', 'neck'), got "
            f'{targets!r} of type {type(targets).__name__}'
        )
    return tuple(prefixes)


def is_below(name: str, prefix: str) -> bool:
    """Whether a module's name is the prefix or below it, by whole segments."""
    return prefix in ('', name) or name.startswith(f'{prefix}.')


def filter_dim(module: nn.Module) -> int:
    """Dimension of a convolution's weight on which its filters (output channels) lie."""
    return 1 if _is_transposed(module) else 0


def _is_conv(module: nn.Module) -> TypeGuard[Convolution]:
    return isinstance(module, nn.modules.conv._ConvNd) or all(
        hasattr(module, attribute)
        for attribute in ('in_channels', 'out_channels', 'kernel_size', 'groups', 'weight')
    )


def _is_laid_out(module: Convolution) -> bool:
    """Whether the first dimensions of a weight are those of torch's convolutions."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return True
    channels, groups = [module.out_channels, module.in_channels], module.groups
    outer, inner = reversed(channels) if _is_transposed(module) else channels
    return tuple(module.weight.shape[:2]) == (outer, inner // groups)


def _is_transposed(module: nn.Module) -> bool:
    return getattr(module, 'transposed', False)


def _moves(model: nn.Module, optimizer: Optimizer | None) -> dict[int, bool]:
    """For each parameter that is updated, by id, whether it moves; all do with no optimizer."""
    if optimizer is None:
        return {id(param): True for param in model.parameters()}
    return {id(param): moves for param, moves in list_updated(optimizer)}


def _held_bias(module: nn.Module, axis: str, moves: Mapping[int, bool]) -> Parameter | None:
    """The bias whose elements are held with the filters, if there is one."""
    bias = getattr(module, 'bias', None)
    if axis != 'out' or not isinstance(bias, Parameter):
        return None
    return bias if bias.requires_grad and moves.get(id(bias)) else None


def _computes_bias(module: nn.Module) -> bool:
    return 'bias' in getattr(module, 'parametrizations', ())


def _own_parameters(module: nn.Module) -> list[Parameter]:
    """All parameters of a convolution, also those that its weight is computed from."""
    of_weight = getattr(module, 'parametrizations', None)
    return [*module.parameters(recurse=False), *(of_weight.parameters() if of_weight else ())]


def _why_not_whole(module: nn.Module, moves: Mapping[int, bool], seen: Collection[int]) -> str:
    """Why a convolution is not held as a whole, or an empty string if it is."""
    params = _own_parameters(module)
    if any(isinstance(param, UninitializedParameter) for param in params):
        return NO_SHAPE
    weights = [param for param in params if param is not module._parameters.get('bias')]
    if frozen := _why_frozen(weights, moves):
        return frozen
    is_shared = any(id(param) in seen for param in params)
    return 'shares parameters of a layer already held' if is_shared else ''


def _why_frozen(weights: Sequence[Tensor], moves: Mapping[int, bool]) -> str:
    """Why none of these parameters moves, or an empty string if one does."""
    if not any(param.requires_grad for param in weights):
        return 'frozen'
    if not any(id(param) in moves for param in weights):
        return 'not updated by the optimizer'
    if not any(moves.get(id(param)) for param in weights):
        return 'frozen by a learning rate of 0'
    return ''


def _layer(name: str, module: Convolution, axis: str, moves: Mapping[int, bool]) -> Layer:
    tensors: tuple[tuple[Parameter, int], ...]
    if axis == 'layer':
        tensors = tuple(
            (param, filter_dim(module) if param.dim() > 1 else 0)
            for param in _own_parameters(module)
            if param.requires_grad and moves.get(id(param))
        )
        return Layer(f'{name}.weight', 1, tensors, is_whole=True)
    weight = module.get_parameter('weight')
    dim = filter_dim(module) if axis == 'out' else 1 - filter_dim(module)
    bias = _held_bias(module, axis, moves)
    tensors = ((weight, dim),) if bias is None else ((weight, dim), (bias, 0))
    return Layer(f'{name}.weight', weight.shape[dim], tensors)
