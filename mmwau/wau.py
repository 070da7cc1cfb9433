"""Weight asynchronous update (WAU): the method, over any ``torch.optim`` optimizer.

In each update only a random subset of every layer's slices moves (they are *active*);
the others keep their weights (they are *held*)::

    layers = find_layers(model).values()  # mmwau.targets
    wau = WAU(update_ratio=0.5, seed=0)
    for update, batch in enumerate(batches):
        loss_of(model, batch).backward()
        active = wau.select(layers, update)
        with wau.holding(optimizer, layers, active):
            optimizer.step()
        optimizer.zero_grad()

Source: Zhang, He, Luo, Xu, He, "Weight asynchronous update: Improving the diversity of filters in
a deep convolutional network", Computational Visual Media 6(4), 2020, doi
10.1007/s41095-020-0185-5 (abstract), and the code that its authors published.
"""

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS, Optimizer, Rprop

SAMPLERS = ('uniform', 'with_replacement', 'bernoulli', 'cyclic')
HOLDS = ('weight', 'state', 'grad')


class Layer(NamedTuple):
    """One layer whose slices are selected together.

    Attributes:
        name: Name of the weight in the model, for example ``'backbone.conv1.weight'``.
        num_slices: Number of slices, at least 1.
        tensors: Pairs (parameter, dimension on which its slices lie). The dimension has
            ``num_slices`` elements: the weight and, where slices are filters, the bias.
    """

    name: str
    num_slices: int
    tensors: tuple[tuple[Parameter, int], ...]


@dataclass(frozen=True)
class WAU:
    """The update rule and its options.

    It has no state: a selection depends on the seed, the update's index and the layer's name
    alone, so it is the same on every rank and after a resume, and the global random state is
    neither read nor changed.

    Args:
        update_ratio: Fraction of the slices of a layer that is active in an update, in (0, 1].
            1 is plain training, whatever the other options.
        sampler: How active slices are drawn from the ``n`` slices of a layer.

            - ``'uniform'``: exactly ``max(min_active, round(update_ratio * n))``, without
              replacement.
            - ``'with_replacement'``: ``max(min_active, floor(update_ratio * n))`` draws, of which
              some coincide (the authors' code).
            - ``'bernoulli'``: each slice on its own, with probability ``update_ratio``.
            - ``'cyclic'``: as many as ``'uniform'``, taken in turns from a random order, so that
              over a round every slice is active equally often.
        hold: What a held slice keeps.

            - ``'weight'``: its weight, bit for bit; the optimizer's state goes on with the dense
              gradient (the authors' code).
            - ``'state'``: its weight and its rows of the optimizer's state. Counters that the
              optimizer keeps once for the whole parameter (Adam's ``step``) go on.
            - ``'grad'``: neither. Its gradient is zeroed, while momentum and weight decay
              still move it.
        rescale: Divide the movement of active slices by the fraction of the layer that is
            active, so that a slice moves as far in expectation as in plain training.
        seed: Seed of the selections.
        min_active: Fewest slices of a layer that are active in an update, 1 or 0. With 0, as in
            the authors' code, a layer whose number of draws is rounded to 0 never moves.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``update_ratio`` is outside (0, 1], ``min_active`` is not 0 or 1, or
            ``sampler`` or ``hold`` is unknown.
    """

    update_ratio: float = 0.5
    sampler: str = 'uniform'
    hold: str = 'weight'
    rescale: bool = False
    seed: int = 0
    min_active: int = 1

    def __post_init__(self) -> None:
        check_update_ratio(self.update_ratio)
        check_choice('sampler', self.sampler, SAMPLERS)
        check_choice('hold', self.hold, HOLDS)
        if not isinstance(self.rescale, bool):
            raise TypeError(f'rescale must be True or False, got {self.rescale!r}')
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise TypeError(f'seed must be an integer, got {self.seed!r}')
        if not isinstance(self.min_active, int) or self.min_active not in (0, 1):
            raise ValueError(
                f'min_active must be 1 or 0, got {self.min_active!r}; 0 lets layers stand still '
                'whose number of draws is rounded to 0'
            )

    def select(self, layers: Collection[Layer], update: int) -> list[Tensor]:
        """Select the active slices of every layer for one update.

        Args:
            layers: The layers.
            update: Index of the update, counted from 0.

        Returns:
            For each layer a bool tensor of shape (num_slices,) on the CPU, True where active.
        """
        return [self.select_slices(layer.name, layer.num_slices, update) for layer in layers]

    def select_slices(self, name: str, num_slices: int, update: int) -> Tensor:
        """Select the active slices of one layer for one update.

        Args:
            name: Name of the layer.
            num_slices: Number of its slices, at least 1.
            update: Index of the update, counted from 0.

        Returns:
            Bool tensor of shape (num_slices,) on the CPU, True where active.
        """
        if self.update_ratio == 1:
            return torch.ones(num_slices, dtype=torch.bool)
        count = max(self.min_active, self.num_drawn(num_slices))
        if self.sampler == 'cyclic':
            turns = num_slices // math.gcd(num_slices, count)
            cycle, turn = divmod(update, turns)
            order = random_numbers(f'{self.seed}/{cycle}/{name}', num_slices).argsort()
            chosen = order.roll(-turn * count)[:count]
        else:
            numbers = random_numbers(f'{self.seed}/{update}/{name}', num_slices)
            if self.sampler == 'uniform':
                chosen = numbers.argsort()[:count]
            elif self.sampler == 'with_replacement':
                chosen = (numbers[:count] * num_slices).long()
            else:
                chosen = numbers < self.update_ratio
                if self.min_active:
                    chosen |= numbers == numbers.min()
        active = torch.zeros(num_slices, dtype=torch.bool)
        active[chosen] = True
        return active

    def num_drawn(self, num_slices: int) -> int:
        """Number of draws from so many slices, before ``min_active`` comes in."""
        expected = self.update_ratio * num_slices
        return math.floor(expected) if self.sampler == 'with_replacement' else round(expected)

    @contextmanager
    def holding(
        self, optimizer: Optimizer, layers: Collection[Layer], active: Sequence[Tensor]
    ) -> Iterator[None]:
        """Hold the slices that are not active through the optimizer step made inside.

        Clipping of gradients belongs inside as well: under ``'state'`` and ``'grad'`` the
        gradients of held slices are zero from here on, so that only active slices count.

        Args:
            optimizer: The optimizer that makes the step. It may hold other parameters too.
            layers: The layers.
            active: What :meth:`select` returned for them.

        Raises:
            ValueError: If ``hold='state'`` and the optimizer's state does not go by slices.
        """
        # ZeroRedundancyOptimizer keeps the state of this process's share in an optimizer inside.
        optimizer = getattr(optimizer, 'optim', optimizer)
        if self.hold == 'state' and isinstance(optimizer, (LBFGS, Rprop)):
            raise ValueError(
                "hold='state' needs an optimizer whose state has one row for each slice, starting "
                f"at zero; {type(optimizer).__name__}'s has not. Use hold='weight' with it."
            )
        tensors = [
            _HeldTensor(param, dim, mask)
            for layer, mask in zip(layers, active, strict=True)
            if not mask.all()
            for param, dim in layer.tensors
        ]
        with torch.no_grad():
            for tensor in tensors:
                tensor.before_step(optimizer, self.hold, self.rescale)
        yield
        with torch.no_grad():
            for tensor in tensors:
                tensor.after_step(optimizer, self.hold, self.rescale)


class _HeldTensor:
    """One parameter with held and active slices on dimension ``dim``, during one update."""

    def __init__(self, param: Parameter, dim: int, active: Tensor):
        self.param = param
        self.dim = dim
        self.held = (~active).nonzero().squeeze(1).to(param.device)
        self.active = active.nonzero().squeeze(1).to(param.device)

    def before_step(self, optimizer: Optimizer, hold: str, rescale: bool) -> None:
        if hold != 'weight' and self.param.grad is not None:
            self.param.grad.index_fill_(self.dim, self.held, 0)
        if hold != 'grad':
            self.held_weights = self.param.index_select(self.dim, self.held)
        if hold == 'state':
            self.held_state = {
                key: rows.index_select(self.dim, self.held)
                for key, rows in self._state_rows(optimizer)
            }
        if rescale:
            self.start = self.param.index_select(self.dim, self.active)

    def after_step(self, optimizer: Optimizer, hold: str, rescale: bool) -> None:
        if hold != 'grad':
            self.param.index_copy_(self.dim, self.held, self.held_weights)
        if hold == 'state':
            for key, rows in self._state_rows(optimizer):
                if key in self.held_state:
                    rows.index_copy_(self.dim, self.held, self.held_state[key])
                else:  # made in this step: a held slice is still where every state starts
                    rows.index_fill_(self.dim, self.held, 0)
        if rescale:
            fraction = self.active.numel() / self.param.size(self.dim)
            end = self.param.index_select(self.dim, self.active)
            moved = self.start + (end - self.start) / fraction
            # What did not move keeps every bit, the sign of a zero included.
            moved = torch.where(end == self.start, self.start, moved)
            self.param.index_copy_(self.dim, self.active, moved)

    def _state_rows(self, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
        """State tensors of the parameter that have a row for each of its slices."""
        for key, value in optimizer.state.get(self.param, {}).items():
            if (
                isinstance(value, Tensor)
                and value.dim() == self.param.dim()
                and value.size(self.dim) == self.param.size(self.dim)
            ):
                yield key, value


def random_numbers(key: str, count: int) -> Tensor:
    """Random numbers that depend on ``key`` alone, evenly spread over [0, 1).

    The SplitMix64 generator (Steele, Lea, Flood, OOPSLA 2014, figure 16), started at a hash of
    the key: each number is computed from its place alone, so all come from a few tensor
    operations, with integers that are the same on every machine.

    Returns:
        Float64 tensor of shape (count,) on the CPU.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    z = torch.arange(1, count + 1) * _signed(0x9E3779B97F4A7C15)
    z += int.from_bytes(digest, 'little', signed=True)
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).double() * 2.0**-53


def _signed(constant: int) -> int:
    """The int64 with the bits of an unsigned 64-bit constant: torch has no uint64 arithmetic."""
    return constant - 2**64


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift int64 right with zeros coming in from the left."""
    return (z >> bits) & (2 ** (64 - bits) - 1)


def check_update_ratio(update_ratio: float, argument: str = 'update_ratio') -> None:
    """Raise unless ``update_ratio`` is a number in (0, 1]."""
    if not isinstance(update_ratio, (int, float)) or isinstance(update_ratio, bool):
        raise TypeError(
            f'{argument} must be a number in (0, 1], got {update_ratio!r} '
            f'of type {type(update_ratio).__name__}'
        )
    if not 0 < update_ratio <= 1:
        raise ValueError(
            f'{argument} must be in (0, 1], got {update_ratio}; 1 is plain training, '
            '0.5 moves half of the filters in each update'
        )


def check_choice(argument: str, value: str, choices: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``choices``."""
    if value not in choices:
        known = ', '.join(repr(choice) for choice in choices)
        raise ValueError(f'{argument} must be one of {known}, got {value!r}')
