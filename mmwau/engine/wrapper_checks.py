"""What the optimizer wrappers and the hook of WAU refuse, where both or a config tell."""

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch.nn import Parameter
from torch.optim import SGD

# Settings of an optimizer wrapper in a config that are no arguments of its class.
ELSEWHERE = ('optimizer', 'constructor', 'paramwise_cfg')


def build_on_nothing(kind: type[OptimWrapper], settings: dict) -> OptimWrapper:
    """Build a wrapper around an optimizer of nothing, so that it checks its own arguments.

    Raises:
        TypeError: If an argument has the wrong type, or is one of automatic mixed precision only.
        ValueError: If a value is wrong, or mixed precision finds no accelerator.
    """
    is_amp = issubclass(kind, AmpOptimWrapper)
    if is_amp and get_device() == 'cpu':
        raise ValueError(
            f'optim_wrapper.type {kind.__name__} (--amp) needs a GPU or another '
            'accelerator, and there is none here. Use WAUOptimWrapper, without --amp'
        )
    of_amp = [key for key in ('loss_scale', 'dtype', 'use_fsdp') if key in settings]
    if of_amp and not is_amp:
        raise TypeError(
            f'optim_wrapper has {", ".join(of_amp)}, since the config trains with automatic mixed '
            f'precision: use WAUAmpOptimWrapper, not {kind.__name__}'
        )
    arguments = {key: settings[key] for key in settings if key not in ELSEWHERE}
    try:
        return kind(optimizer=SGD([Parameter(torch.zeros(1))], lr=1.0), **arguments)
    except AssertionError as error:
        raise ValueError(f'optim_wrapper: {error}') from error


def check_send(hold: str | None) -> None:
    """Raise if the gradients of held slices are needed and so can't be left out of what is sent."""
    if hold == 'weight':
        raise ValueError(
            "WAUHook: send_active_only=True does not go with hold='weight', under which the "
            "optimizer's state takes the gradients of held slices too. Set "
            "optim_wrapper.hold='state', or leave send_active_only out"
        )


def wrong_runner(runner: str) -> str:
    """The message for a runner that does not pass the model to the optimizer wrapper."""
    return (
        f'{runner} does not pass the model to the optimizer wrapper, so nothing would be held. '
        "Train with MMEngine's Runner (remove runner_type from the config)"
    )
