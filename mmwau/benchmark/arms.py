"""The arms of a comparison: the same network trained in different ways."""

import copy
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import SGD

from mmwau import WAUOptimWrapper

from .networks import Network
from .peers import AuthorsSGD, freeze_below, freeze_first_layers

SGD_OPTIONS: dict[str, Any] = dict(lr=1e-3, momentum=0.9, weight_decay=1e-4)
PHASES = ('selection', 'forward', 'backward', 'optimizer step')
WALL, PROCESSOR = 'training step', 'processor'


class Arm(NamedTuple):
    """A way to train.

    Attributes:
        options: Arguments of :class:`mmwau.WAUOptimWrapper`, or None where WAU takes no part.
        prepare: Is called with the model and its network before the optimizer is built.
        authors: Whether the optimizer is that of the authors' loop.
    """

    options: dict | None = None
    prepare: Callable[[nn.Module, Network], None] = lambda model, network: None
    authors: bool = False

    @property
    def update_ratio(self) -> float | None:
        """Fraction of the slices that is active, or None where WAU takes no part."""
        return None if self.options is None else self.options['update_ratio']


def _wau(update_ratio: float, hold: str, **options: object) -> Arm:
    return Arm(dict(update_ratio=update_ratio, hold=hold, seed=0, **options))


BASELINE = 'baseline'
# Those that a network is trained in, unless others are asked for.
STEP_ARMS = {
    BASELINE: Arm(),
    'weight 0.5': _wau(0.5, 'weight'),
    'filters 0.5': _wau(0.5, 'state'),
    'filters 0.25': _wau(0.25, 'state'),
    'layers 0.5': _wau(0.5, 'state', axis='layer'),
    'layers 0.25': _wau(0.25, 'state', axis='layer'),
    'first stages frozen': Arm(
        prepare=lambda model, network: freeze_below(model, network.first_stages)
    ),
    'layer freezing': Arm(prepare=lambda model, network: freeze_first_layers(model, 0.5)),
    "authors' loop": Arm(authors=True),
}
ARMS = {
    **STEP_ARMS,
    'state 0.5': _wau(0.5, 'state', skip_held_grads=False),
    'grad 0.5': _wau(0.5, 'grad'),
}


def build_wrapper(arm: str, model: nn.Module, network: Network) -> OptimWrapper:
    """Build the optimizer wrapper of an arm, of :data:`ARMS`, for a model of the network."""
    options, prepare, authors = ARMS[arm]
    prepare(model, network)
    params = [param for param in model.parameters() if param.requires_grad]
    if authors:
        return OptimWrapper(AuthorsSGD(params, 0.5, SGD_OPTIONS))
    optimizer = SGD(params, **SGD_OPTIONS)
    if options is None:
        return OptimWrapper(optimizer)
    wrapper = WAUOptimWrapper(optimizer, targets=network.targets, **options)
    wrapper.initialize_count_status(model, 0, -1)
    return wrapper


class BenchmarkTrainer:
    """Trains a copy of a network in the way of one arm, a step at a time."""

    def __init__(self, arm: str, network: Network):
        self.loss = network.loss
        self.model = copy.deepcopy(network.model)
        self.wrapper = build_wrapper(arm, self.model, network)
        self.device = next(self.model.parameters()).device

    def step(self) -> dict[str, float]:
        """Make a training step.

        Returns:
            The seconds of each of :data:`PHASES`; those of the whole step (:data:`WALL`); and the
            seconds that the threads of this process have spent on a processor meanwhile
            (:data:`PROCESSOR`).
        """
        processor = time.process_time()
        times = [now(self.device)]
        with self.wrapper.optim_context(self.model):
            times.append(now(self.device))
            loss = self.loss(self.model)
        times.append(now(self.device))
        backward = self.wrapper.backward

        def timed_backward(loss: torch.Tensor) -> None:
            backward(loss)
            times.append(now(self.device))

        self.wrapper.backward = timed_backward
        self.wrapper.update_params(loss)
        del self.wrapper.backward
        times.append(now(self.device))
        processor = time.process_time() - processor
        phases = [end - start for start, end in pairwise(times)]
        return {
            **dict(zip(PHASES, phases, strict=True)),
            WALL: times[-1] - times[0],
            PROCESSOR: processor,
        }


def now(device: torch.device) -> float:
    """Seconds of a clock, when the device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()
