"""What people would pick instead of WAU to save time, and the loop of WAU's authors."""

import random
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from mmwau.targets import is_below


def freeze_below(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Freeze modules for good, their batch norm's statistics too, as ``frozen_stages`` does."""
    for name, module in model.named_modules():
        if name and any(is_below(name, prefix) for prefix in prefixes):
            module.eval()
            module.requires_grad_(False)


def freeze_first_layers(model: nn.Module, fraction: float) -> None:
    """Freeze the first of the model's layers, as layer freezing has them at one moment.

    Layer freezing (``LayerFreezing`` of MosaicML's Composer) freezes more and more layers as
    training goes on, in the order in which they are defined: by now a fraction of them in [0, 1].
    A layer is a module without modules inside, and the last one is never frozen.
    """
    leaves = [module for module in model.modules() if not any(module.children())]
    for module in leaves[: int(fraction * (len(leaves) - 1))]:
        module.requires_grad_(False)


class AuthorsSGD(Optimizer):
    """SGD with WAU in a loop over tensors, after what is known of the authors' optimizer.

    Of every 4-D tensor, input channels (dimension 1) are drawn in each step, with replacement and
    anew for each tensor. Momentum and weight decay take the dense gradient; then only the channels
    that were drawn are moved.

    Args:
        params: The parameters.
        update_ratio: Draws as a fraction of the input channels.
        options: Arguments of ``torch.optim.SGD`` by name: ``lr``, ``momentum``, ``weight_decay``.
    """

    def __init__(self, params: Iterable[Parameter], update_ratio: float, options: dict[str, float]):
        super().__init__(params, options)
        self.update_ratio = update_ratio
        self._random = random.Random(0)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # it takes none
        """Make one step."""
        for group in self.param_groups:
            for param in group['params']:
                if param.grad is None:
                    continue
                moves = param.grad.add(param, alpha=group['weight_decay'])
                state = self.state[param]
                if 'momentum_buffer' in state:
                    moves = state['momentum_buffer'].mul_(group['momentum']).add_(moves)
                state['momentum_buffer'] = moves
                if param.dim() == 4:
                    channels = range(param.size(1))
                    count = int(self.update_ratio * len(channels))
                    chosen = self._random.choices(channels, k=count)
                    masked = torch.zeros_like(moves)
                    masked[:, chosen] = moves[:, chosen]
                    moves = masked
                param.add_(moves, alpha=-group['lr'])
