"""How what WAU costs and saves grows with width, with the number of layers and with the ratio."""

from functools import partial

import torch
from torch import nn

from .networks import Network
from .operations import time_convolution, time_optimizer_steps
from .rounds import Progress, Ratio

WIDTHS = (1, 2, 4, 8)  # times 32 channels
LAYERS = (1, 10, 100, 1000)
RATIOS = (0.1, 0.25, 0.5, 0.75, 1.0)
STEPS = ('baseline', 'weight 0.5', 'state 0.5', "authors' loop")


def by_width(rounds: int, tick: Progress, device: str) -> dict[str, dict[int, Ratio]]:
    """Backward pass with skipping of a 3x3 and a 1x1 convolution, by number of channels."""
    timed = partial(time_convolution, rounds=rounds, tick=tick, device=device, size=28)
    return {
        f'{kernel}x{kernel}': {32 * width: timed(32 * width, kernel=kernel) for width in WIDTHS}
        for kernel in (3, 1)
    }


def by_ratio(rounds: int, tick: Progress, device: str) -> dict[str, dict[float, Ratio]]:
    """Backward pass with skipping of a 3x3 convolution of 256 channels, by update ratio."""
    timed = partial(time_convolution, 256, rounds, tick, size=14, device=device)
    return {
        f"axis='{axis}'": {ratio: timed(ratio=ratio, axis=axis) for ratio in RATIOS}
        for axis in ('out', 'in')
    }


def by_layers(rounds: int, tick: Progress, device: str) -> dict[str, dict[int, Ratio]]:
    """Optimizer step with its selection of so many 3x3 convolutions of 32 channels."""
    found: dict[str, dict[int, Ratio]] = {arm: {} for arm in STEPS[1:]}
    for num_layers in LAYERS:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Conv2d(32, 32, 3, bias=False) for _ in range(num_layers)))
        network = Network(model.to(device), lambda model: torch.tensor(0.0), ('',), 'no batch')
        table = time_optimizer_steps(network, STEPS, rounds, tick)
        for arm, of_layers in found.items():
            of_layers[num_layers] = table[arm]['ratios']['selection and step']
    return found
