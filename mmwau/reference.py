"""Weight asynchronous update written the slow and obvious way: the whole method on one page.

To read, and to test against: slice by slice, in plain loops, with random numbers from Python's own
integers. :class:`mmwau.WAU` does the same, bit for bit, with a few tensor operations for all
layers.
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmwau.core.slices import Layer, Layers, list_layers


class WAUReference:
    """An optimizer whose every step is one update of WAU; ``update`` is the index of the next one.

    The layers are those of :func:`mmwau.find_layers`, and the options those of :class:`mmwau.WAU`.
    Under ``hold='state'`` the state of the optimizer has to start at zero.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        layers: Layers,
        update_ratio: float = 0.5,
        *,
        sampler: str = 'uniform',
        hold: str = 'weight',
        rescale: bool = False,
        seed: int = 0,
        min_active: int = 1,
    ):
        self.optimizer, self.layers = optimizer, list_layers(layers)
        self.update_ratio, self.sampler, self.hold = update_ratio, sampler, hold
        self.rescale, self.seed, self.min_active = rescale, seed, min_active
        self.update = 0

    @torch.no_grad()
    def step(self) -> None:
        """Make one optimizer step in which the slices that are not selected are held."""
        active = self.select_all()
        if self.layers and self.layers[0].is_whole and self.hold == 'state':
            # Steps leave out what has no gradient, its state included.
            for layer, is_active in zip(self.layers, active, strict=True):
                for param, _ in layer.tensors if not is_active[0] else ():
                    param.grad = None
        elif self.hold != 'weight':
            for layer, is_active in zip(self.layers, active, strict=True):
                for param, dim in layer.tensors:
                    for index in range(layer.num_slices):
                        if not is_active[index] and param.grad is not None:
                            _slice(param.grad, layer, dim, index).zero_()
        weights, states = self._weights(), self._states()
        self.optimizer.step()
        for layer, is_active in zip(self.layers, active, strict=True):
            fraction = self._fraction(is_active, active)
            for param, dim in layer.tensors:
                for index in range(layer.num_slices):
                    now = _slice(param, layer, dim, index)
                    before = _slice(weights[param], layer, dim, index)
                    if is_active[index]:
                        if self.rescale and fraction < 1:
                            now.copy_(before + (now - before) / fraction)
                        continue
                    if self.hold != 'grad':
                        now.copy_(before)
                    if self.hold == 'state':
                        for key, value in self.optimizer.state.get(param, {}).items():
                            if isinstance(value, Tensor) and value.shape == param.shape:
                                old = states.get((param, key), torch.zeros_like(value))
                                old = _slice(old, layer, dim, index)
                                _slice(value, layer, dim, index).copy_(old)
        self.update += 1

    def select_all(self) -> list[list[bool]]:
        """Select the active slices of each layer for the update to come."""
        if not self.layers or not self.layers[0].is_whole:
            return [self.select([layer.name], layer.num_slices) for layer in self.layers]
        # The slices are the layers: all are selected together, each with a number of its own.
        return [[one] for one in self.select([layer.name for layer in self.layers], 1)]

    def select(self, names: Sequence[str], num_slices: int) -> list[bool]:
        """Select the active slices of one layer, or of several together.

        Args:
            names: Names of the weights.
            num_slices: Number of slices of each.

        Returns:
            For each slice whether it is active.
        """
        names, each = list(names), num_slices
        num_slices = len(names) * each
        ratio, num_drawn = self.update_ratio, round(self.update_ratio * num_slices)
        if ratio == 1:
            return [True] * num_slices
        if self.sampler == 'with_replacement':
            num_drawn = math.floor(ratio * num_slices)
        count, draw, turn = max(self.min_active, num_drawn), self.update, 0
        if self.sampler == 'cyclic':
            # One random order serves until every slice was active equally often.
            draw, turn = divmod(self.update, num_slices // math.gcd(num_slices, count))
        time = f'{self.seed}/{draw}'
        numbers = [number for name in names for number in random_numbers(time, name, each)]
        in_order = sorted(range(num_slices), key=numbers.__getitem__)
        if self.sampler == 'bernoulli':
            chosen = {index for index, number in enumerate(numbers) if number < ratio}
            if not chosen and self.min_active:
                chosen = {in_order[0]}
        elif self.sampler == 'with_replacement':  # some of the draws coincide
            chosen = {math.floor(number * num_slices) for number in numbers[:count]}
        else:
            places = range(turn * count, (turn + 1) * count)
            chosen = {in_order[place % num_slices] for place in places}
        return [index in chosen for index in range(num_slices)]

    def _fraction(self, of_layer: list[bool], of_all: list[list[bool]]) -> float:
        """The fraction that is active of what was selected together."""
        together = of_layer
        if self.layers[0].is_whole:
            together = [is_active for of_one in of_all for is_active in of_one]
        return sum(together) / len(together)

    def _weights(self) -> dict[Tensor, Tensor]:
        groups = self.optimizer.param_groups
        return {param: param.clone() for group in groups for param in group['params']}

    def _states(self) -> dict[tuple[Tensor, str], Tensor]:
        return {
            (param, key): value.clone()
            for param, state in self.optimizer.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }


def _slice(tensor: Tensor, layer: Layer, dim: int, index: int) -> Tensor:
    return tensor if layer.is_whole else tensor.select(dim, index)


def random_numbers(time: str, name: str, count: int) -> Sequence[float]:
    """SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), started at the hashes of two texts.

    Args:
        time: A text that is new in each draw.
        name: A text of the layer.
        count: How many numbers.

    Returns:
        Numbers in [0, 1).
    """
    mask, numbers = 2**64 - 1, []
    state = sum(
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little')
        for text in (time, name)
    )
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        numbers.append((z >> 11) / 2**53)
    return numbers
