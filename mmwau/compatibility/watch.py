"""What one training is watched for: bit for bit, what moved and what was held."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmwau.core.slices import Layer
from mmwau.targets import DEFAULT_TARGETS, find_layers, find_left_out
from mmwau.wau import WAU

from .recipes import SEED, UPDATE_RATIO


class Watch(Hook):
    """Checks each update from its start to its end: held slices keep every bit, active ones move.

    It finds the layers and draws the selections by itself, with the optimizer wrapper's targets and
    axis, but does not ask the wrapper for either. What it has found is in its attributes.
    """

    priority = 'VERY_LOW'

    def __init__(self, targets: Sequence[str] = DEFAULT_TARGETS, axis: str = 'out'):
        self.targets, self.axis = targets, axis
        self.rule = WAU(UPDATE_RATIO, seed=SEED)
        self.layers: dict[str, Layer] = {}
        self.left_out: dict[str, str] = {}
        self.wrong: list[str] = []
        self.losses: list[float] = []
        self.active = self.moved = self.without_gradient = self.updates = 0
        self._hooks: list = []
        self._has_gradient: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the layers, and give those in residual branches a gradient from the start."""
        start_branches(runner.model)
        self.find(runner)
        self.counts = runner.cfg.optim_wrapper.accumulative_counts
        for name, layer in self.layers.items():
            weight, dim = layer.tensors[0]
            self._hooks.append(weight.register_hook(partial(self._see, name, dim)))

    def find(self, runner: Runner) -> None:
        """Find the layers."""
        where = runner.model, self.targets, self.axis, runner.optim_wrapper.optimizer
        self.layers, self.left_out = find_layers(*where), find_left_out(*where)

    def after_train(self, runner: Runner) -> None:
        """Look at gradients no longer: where somebody does, none are skipped."""
        for hook in self._hooks:
            hook.remove()

    def _see(self, name: str, dim: int, grad: Tensor) -> None:
        self._has_gradient[name] = self._has_gradient.get(name, False) | _any_in_slice(grad, dim)

    def before_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Look at the start of an update."""
        if runner.iter % self.counts == 0:
            self._has_gradient = {}
            self.start()

    def after_train_iter(
        self, runner: Runner, *args: object, outputs: dict, **kwargs: object
    ) -> None:
        """Look at its end."""
        self.losses.append(torch.as_tensor(outputs['loss']).item())
        if (runner.iter + 1) % self.counts:
            return
        for name, active, moved in self.end(self.updates):
            has_gradient = self._has_gradient.get(name, torch.zeros_like(active))
            self.active += int(active.sum())
            self.moved += int((active & moved).sum())
            self.without_gradient += int((active & ~has_gradient).sum())
            if (active & has_gradient).any() and not (active & moved).any():
                self.wrong.append(f'no active filter of {name} moved')
        self.updates += 1

    def start(self) -> None:
        """Keep the weights as they are at the start of an update."""
        self._before = {
            name: [tensor.detach().clone() for tensor, _ in layer.tensors]
            for name, layer in self.layers.items()
        }

    def end(self, update: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Compare them with the weights at its end.

        Args:
            update: Index of the update.

        Yields:
            Name of a convolution, and two bool tensors of shape (num_slices,): active, and moved.
        """
        selected = self.rule.select(self.layers.values(), update)
        for (name, layer), active in zip(self.layers.items(), selected, strict=True):
            moved = [
                _any_in_slice(
                    _bits(before) != _bits(tensor.detach()), None if layer.is_whole else dim
                )
                for before, (tensor, dim) in zip(self._before[name], layer.tensors, strict=True)
            ]
            held_that_moved = int(torch.stack(moved).any(dim=0)[~active].sum())
            if held_that_moved:
                what = 'weight' if layer.is_whole else f'{held_that_moved} held filters'
                self.wrong.append(f'{what} of {name} moved')
            yield name, active, moved[0]


def start_branches(model: nn.Module) -> None:
    """Let norms whose weights start at zero start at 0.1.

    Without pretrained weights residual branches that end in such a norm have no gradient in the
    first update, and none ever where the norm is frozen.
    """
    for module in model.modules():
        if not isinstance(module, (_BatchNorm, nn.GroupNorm)) or not module.affine:
            continue
        if not module.weight.any():
            nn.init.constant_(module.weight, 0.1)


def _bits(tensor: Tensor) -> Tensor:
    """The bits as integers, which compare equal where they are the same, NaN too."""
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def _any_in_slice(tensor: Tensor, dim: int | None) -> Tensor:
    """Which slices have an element that is not zero, NaN included; None: all is one slice."""
    if dim is None:
        return tensor.ne(0).any().view(1)
    return tensor.movedim(dim, 0).reshape(tensor.size(dim), -1).ne(0).any(dim=1)
