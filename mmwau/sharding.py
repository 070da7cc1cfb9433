"""Ways of training that cut parameters over processes, which slices do not go with."""

from torch import nn

MODEL_WRAPPERS = (
    'FullyShardedDataParallel',
    'MMDeepSpeedEngineWrapper',
    'ColossalAIModelWrapper',
)
# What a config names that leads to them.
SETTINGS = (
    'FSDPStrategy',
    'DeepSpeedStrategy',
    'ColossalAIStrategy',
    'MMFullyShardedDataParallel',
)


def refuse_sharded(model: nn.Module, method: str = 'WAU') -> None:
    """Raise if a model's parameters are cut over processes: slices have no fixed place then.

    Args:
        model: The model, wrapped for distributed training or not.
        method: What does not work with it.

    Raises:
        TypeError: If they are.
    """
    for kind in type(model).__mro__:
        if kind.__name__ in MODEL_WRAPPERS:
            raise TypeError(sharded(kind.__name__, method))


def sharded(kind: str, method: str = 'WAU') -> str:
    """Tell what to use instead of a way of training that cuts parameters over processes."""
    return (
        f'{method} does not work with {kind}, which cuts parameters over processes. Use '
        'MMDistributedDataParallel'
    )
