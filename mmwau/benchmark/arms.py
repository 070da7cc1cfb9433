"""The arms of a comparison: the same network trained in different ways."""

import copy
import random
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD, Optimizer

from mmwau import WAUOptimWrapper, find_layers

from .networks import Network

SGD_OPTIONS = dict(lr=1e-3, momentum=0.9, weight_decay=1e-4)
ARMS = ('baseline', 'weight', 'state', 'state, skipping', 'grad, skipping', 'naive loop')
PHASES = ('selection', 'forward', 'backward', 'optimizer step')


class NaiveSGD(Optimizer):
    """SGD with WAU in a loop over tensors, in the manner of the authors' optimizer.

    Weight decay and momentum take the dense gradient; of a held layer only the active slices are
    moved, by indexing, and drawn anew for each tensor by Python's generator.
    """

    def __init__(self, params: Iterable[Parameter], dims: Mapping[Parameter, int], ratio: float):
        super().__init__(params, SGD_OPTIONS)
        self.dims, self.ratio = dims, ratio

    @torch.no_grad()
    def step(self) -> None:
        """Make one step."""
        for group in self.param_groups:
            for param in group['params']:
                if param.grad is None:
                    continue
                grad = param.grad.add(param, alpha=group['weight_decay'])
                state = self.state[param]
                if 'momentum_buffer' in state:
                    grad = state['momentum_buffer'].mul_(group['momentum']).add_(grad)
                state['momentum_buffer'] = grad
                if param not in self.dims:
                    param.add_(grad, alpha=-group['lr'])
                    continue
                size = param.size(self.dims[param])
                chosen = random.sample(range(size), max(1, round(self.ratio * size)))
                index = (slice(None),) * self.dims[param] + (chosen,)
                param[index] = param[index] - group['lr'] * grad[index]


def build_wrapper(arm: str, model: nn.Module, targets: tuple[str, ...], ratio: float, axis: str):
    """Build the optimizer wrapper of an arm, of :data:`ARMS`, for a model."""
    params = [param for param in model.parameters() if param.requires_grad]
    if arm == 'naive loop':
        layers = find_layers(model, targets, axis).values()
        dims = {layer.tensors[0][0]: layer.tensors[0][1] for layer in layers}
        return OptimWrapper(NaiveSGD(params, dims, ratio))
    optimizer = SGD(params, **SGD_OPTIONS)
    if arm == 'baseline':
        return OptimWrapper(optimizer)
    hold, _, skipping = arm.partition(', ')
    wrapper = WAUOptimWrapper(
        optimizer, update_ratio=ratio, axis=axis, hold=hold, targets=targets, seed=0,
        skip_held_grads=bool(skipping),
    )  # fmt: skip
    wrapper.initialize_count_status(model, 0, -1)
    return wrapper


class Trainer:
    """Trains a copy of a network in the way of one arm, a step at a time."""

    def __init__(self, arm: str, network: Network, ratio: float, axis: str = 'out'):
        self.arm = arm
        self.loss = network.loss
        self.model = copy.deepcopy(network.model)
        self.wrapper = build_wrapper(arm, self.model, network.targets, ratio, axis)
        self.device = next(self.model.parameters()).device

    def step(self) -> dict[str, float]:
        """Make a training step; return the seconds of each of :data:`PHASES` and in all."""
        times = [self._now()]
        with self.wrapper.optim_context(self.model):
            times.append(self._now())
            loss = self.loss(self.model)
        times.append(self._now())
        self.wrapper.backward(loss)
        times.append(self._now())
        self.wrapper.step()
        self.wrapper.zero_grad()
        times.append(self._now())
        seconds = [end - start for start, end in pairwise(times)]
        return {**dict(zip(PHASES, seconds, strict=True)), 'training step': times[-1] - times[0]}

    def _now(self) -> float:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
