"""Ways of training in several processes that slices do not go with."""

from collections.abc import Iterable

from torch import distributed, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

MODEL_WRAPPERS = ('FullyShardedDataParallel', 'MMDeepSpeedEngineWrapper', 'ColossalAIModelWrapper')
# What a config names that leads to them.
SETTINGS = ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy', 'MMFullyShardedDataParallel')


def refuse_sharded(model: nn.Module, method: str = 'WAU') -> None:
    """Raise a TypeError if a model's wrapper cuts parameters over processes.

    Slices have no fixed place then.

    Args:
        model: The model, wrapped for distributed training or not.
        method: What does not work with it.
    """
    kind = _find_kind(model, MODEL_WRAPPERS)
    if kind:
        raise TypeError(sharded(kind, method))


def refuse_sharded_layers(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Raise if parameters of some layers are cut over processes.

    Args:
        model: The model that they are part of, not wrapped itself.
        layers: Convolutions, or linear layers.

    Raises:
        TypeError: If they are DTensors, lie flat, or are below a wrapper that cuts them.
    """
    layers = set(layers)
    for module in model.modules():
        if _find_kind(module, MODEL_WRAPPERS) and not layers.isdisjoint(module.modules()):
            refuse_sharded(module, 'mmwau')
    for module in layers:
        for param in module.parameters(recurse=False):
            if _find_kind(param, ('DTensor',)):
                raise TypeError(sharded('DTensor (fully_shard, tensor parallelism)', 'mmwau'))
            # FSDP leaves the modules inside of it flat pieces of their parameters.
            is_weight = param is module._parameters.get('weight') and not is_lazy(param)
            if is_weight and param.dim() == 1:
                raise TypeError(sharded('FullyShardedDataParallel', 'mmwau'))


def refuse_optimizer(optimizer: Optimizer) -> None:
    """Raise if a step of the optimizer is not what moves the weights, or not all that does.

    Raises:
        TypeError: If it is no optimizer of this process, or averages weights in its step.
        ValueError: If the weights move in the backward pass.
    """
    kind = type(optimizer).__name__
    if not hasattr(optimizer, 'param_groups'):
        raise TypeError(
            f'WAU needs an optimizer that has the parameters of this process in param_groups, as '
            f'those of torch.optim do, got {kind}'
        )
    if _find_kind(optimizer, ('PostLocalSGDOptimizer',)):
        raise TypeError(
            f'WAU does not work with {kind}, whose step also averages weights over processes, '
            'those of held slices too. Use the optimizer inside of it, and call '
            'averager.average_parameters(model.parameters()) after each update'
        )
    if getattr(optimizer, '_overlap_with_ddp', False):
        raise ValueError(
            f'WAU does not work with overlap_with_ddp=True of {kind}, which moves weights in the '
            'backward pass, where nothing is held. Set overlap_with_ddp=False'
        )
    if any(
        hasattr(param, '_in_backward_optimizers')
        for group in optimizer.param_groups
        for param in group['params']
    ):
        raise ValueError(
            'WAU does not work with _apply_optimizer_in_backward, which moves weights in the '
            'backward pass, where nothing is held. Leave it out, and call optimizer.step()'
        )


def refuse_join(model: nn.Module) -> None:
    """Raise a ValueError if a model trains or did in a ``Join`` that goes on with fewer processes.

    Args:
        model: The model, wrapped for distributed training or not.
    """
    config = getattr(model, '_join_config', None)
    if config is not None and config.enable and not config.throw_on_early_termination:
        raise ValueError(
            'WAU does not work inside of torch.distributed.algorithms.Join, nor after it with the '
            'same DistributedDataParallel: a process that runs out of batches makes fewer updates, '
            'and from then on selects other slices than the others do. Give all processes the same '
            "number of batches, as DistributedSampler and MMEngine's DefaultSampler do, or set "
            'throw_on_early_termination=True'
        )


def is_one_of_several() -> bool:
    """Whether this process belongs to a group of several."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def sharded(kind: str, method: str = 'WAU') -> str:
    """What to use instead of a way of training that splits parameters over processes."""
    return (
        f'{method} does not work with {kind}, which cuts parameters over processes. Use '
        'MMDistributedDataParallel of MMEngine or DistributedDataParallel of torch'
    )


def _find_kind(thing: object, names: Iterable[str]) -> str | None:
    """The name among ``names`` that the class of a thing or one of its bases has, or None."""
    return next((kind.__name__ for kind in type(thing).__mro__ if kind.__name__ in names), None)
