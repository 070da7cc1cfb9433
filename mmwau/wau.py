"""Weight asynchronous update (WAU): the method, over any ``torch.optim`` optimizer.

In each update only a random subset of every layer's slices moves (they are *active*);
the others keep their weights (they are *held*)::

    layers = find_layers(model)  # mmwau.targets
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

import math
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import LBFGS, Optimizer

from mmwau.core.checks import as_integer, as_update_ratio, check_bool, check_choice
from mmwau.core.holds import (
    NEEDS_NO_WHOLE,
    can_step_active_alone,
    inner,
    keep_state,
    keep_weights,
    leave_out,
    refuse_around,
    refuse_capture,
    rescale_movement,
    step_active_alone,
    zero_grads,
)
from mmwau.core.master_copies import refuse_master_copy, refuse_new_master_copies
from mmwau.core.random_numbers import random_numbers
from mmwau.core.sharding import refuse_optimizer
from mmwau.core.slices import ActiveGrads, Layers, are_whole, find_moving, find_slices, list_layers
from mmwau.core.state_start import Starts, check_state, refuse_whole_vector

SAMPLERS = ('uniform', 'with_replacement', 'bernoulli', 'cyclic')
HOLDS = ('weight', 'state', 'grad')


@dataclass(frozen=True)
class WAU:
    """The update rule and its options.

    It has no state: a selection depends on the seed, the update's index and the layer's name
    alone, so it is the same on every rank and after a resume, and the global random state is
    neither read nor changed.

    Args:
        update_ratio: Fraction of the slices of a layer that is active in an update, in (0, 1].
            1 is plain training, whatever the other options. Where slices are whole layers
            (``axis='layer'``), it is the fraction of the layers.
        sampler: How active slices are drawn from the ``n`` slices of a layer, or from ``n`` layers.

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
              optimizer keeps once for the whole parameter (Adam's ``step``) go on, except those
              of whole layers.
            - ``'grad'``: neither. Its gradient is zeroed, while momentum and weight decay
              still move it.
        rescale: Divide the movement of active slices by the fraction of the layer that is
            active, so that a slice moves as far in expectation as in plain training.
        seed: Seed of the selections.
        min_active: Fewest slices of a layer that are active in an update (or fewest layers), 1 or
            0. With 0, as in the authors' code, a layer whose number of draws is rounded to 0
            never moves.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``update_ratio`` is outside (0, 1], ``min_active`` is not 0 or 1, or
            ``sampler`` or ``hold`` is unknown.
    """

    update_ratio: float = 0.5
    _: KW_ONLY
    sampler: str = 'uniform'
    hold: str = 'weight'
    rescale: bool = False
    seed: int = 0
    min_active: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, 'update_ratio', as_update_ratio(self.update_ratio))
        check_choice('sampler', self.sampler, SAMPLERS)
        check_choice('hold', self.hold, HOLDS)
        check_bool('rescale', self.rescale)
        object.__setattr__(self, 'seed', as_integer('seed', self.seed))
        if type(self.min_active) is not int or self.min_active not in (0, 1):
            raise ValueError(
                f'min_active must be 1 or 0, got {self.min_active!r}; 0 lets layers stand still '
                'whose number of draws is rounded to 0'
            )

    def select(self, layers: Layers, update: int) -> list[Tensor]:
        """Select the active slices of every layer for one update.

        Args:
            layers: The layers, as :func:`mmwau.targets.find_layers` returns them or in a list.
            update: Index of the update, an integer counted from 0.

        Returns:
            For each layer a bool tensor of shape (num_slices,) on the CPU, True where active.

        Raises:
            TypeError: If ``update`` is not an integer.
        """
        return self.select_each(layers, [as_integer('update', update)])[0]

    def select_each(self, layers: Layers, updates: Sequence[int]) -> list[list[Tensor]]:
        """Select for several updates at once, which takes little longer than for one.

        Args:
            layers: See :meth:`select`.
            updates: Indices of the updates.

        Returns:
            For each update what :meth:`select` returns for it.
        """
        layers = list_layers(layers)
        is_whole = are_whole(layers)
        if not updates:
            return []
        if self.update_ratio == 1 or not layers:
            everything = [torch.ones(layer.num_slices, dtype=torch.bool) for layer in layers]
            return [everything for _ in updates]
        if is_whole:
            # What is drawn from are the layers themselves.
            drawn = self._draw_rows([layer.name for layer in layers], 1, len(layers), updates)
            return [list(masks.view(-1, 1).unbind()) for masks in drawn]
        # Layers of one size are drawn together: a few tensor operations instead of a few for each.
        masks: dict[tuple[str, int], Sequence[Tensor]] = {}  # one for each update
        for size in {layer.num_slices for layer in layers}:
            names = [layer.name for layer in layers if layer.num_slices == size]
            drawn = self._draw_rows(names, size, size, updates)
            for name, of_layer in zip(names, drawn.unbind(1), strict=True):
                masks[name, size] = of_layer.unbind()
        own = [masks[layer.name, layer.num_slices] for layer in layers]
        return [list(selection) for selection in zip(*own, strict=True)]

    def _draw_rows(self, names: list[str], each: int, size: int, updates: Sequence[int]) -> Tensor:
        """Draw from rows of slices, for each update.

        Args:
            names: What the random numbers come from, row after row.
            each: How many numbers come from each name.
            size: Slices in a row.
            updates: Indices of the updates.

        Returns:
            Bool tensor of shape (updates, rows, slices), True where active.
        """
        moments = [self._moment(size, update) for update in updates]
        times = [f'{self.seed}/{moment}' for moment, _ in moments for _ in names]
        numbers = random_numbers(times, names * len(moments), [each] * len(times)).view(-1, size)
        num_rows = len(names) * each // size
        active = self._draw(numbers, [turn for _, turn in moments for _ in range(num_rows)])
        return active.view(len(updates), num_rows, size)

    def _moment(self, num_slices: int, update: int) -> tuple[int, int]:
        """The index of the draw that an update belongs to, and its turn in that draw."""
        if self.sampler != 'cyclic':
            return update, 0
        return divmod(update, num_slices // math.gcd(num_slices, self.num_active(num_slices)))

    def _draw(self, numbers: Tensor, turns: Sequence[int]) -> Tensor:
        """Draw the active slices of rows of one size.

        Args:
            numbers: Random numbers in [0, 1), float64 of shape (rows, slices).
            turns: The turn of each row under ``'cyclic'``.

        Returns:
            Bool tensor of shape (rows, slices), True where active.
        """
        count = self.num_active(numbers.size(1))
        if self.sampler == 'bernoulli':
            active = numbers < self.update_ratio
            if self.min_active:
                active |= numbers == numbers.amin(dim=1, keepdim=True)
            return active
        if self.sampler == 'uniform':
            chosen = numbers.topk(count, dim=1, largest=False, sorted=False).indices
        elif self.sampler == 'with_replacement':
            chosen = (numbers[:, :count] * numbers.size(1)).long()
        else:
            places = torch.tensor(turns)[:, None] * count + torch.arange(count)
            chosen = numbers.argsort(dim=1).gather(1, places % numbers.size(1))
        return torch.zeros(numbers.shape, dtype=torch.bool).scatter_(1, chosen, True)

    def num_active(self, num_slices: int) -> int:
        """Number of draws from so many slices, at least ``min_active``."""
        return max(self.min_active, self.num_drawn(num_slices))

    def num_drawn(self, num_slices: int) -> int:
        """Number of draws from so many slices, before ``min_active`` comes in."""
        expected = self.update_ratio * num_slices
        return math.floor(expected) if self.sampler == 'with_replacement' else round(expected)

    def check_optimizer(self, optimizer: Optimizer, layers: Layers | None = None) -> None:
        """Raise if what a held slice keeps can't be kept with this optimizer.

        Args:
            optimizer: The optimizer.
            layers: The layers to hold. Without them the check is only of the optimizer's kind.

        Raises:
            TypeError: If it has no parameters of this process, or its step averages weights over
                processes.
            ValueError: If it moves weights in the backward pass; or ``hold='state'`` and its state
                does not go by slices, nobody knows where it starts, its steps read whole tensors
                (:mod:`mmwau.core.state_start`), or slices are held and it is around another
                optimizer; or ``hold='grad'`` and it computes gradients anew in its step; or
                ``hold='weight'`` or ``rescale``, and it has copies from which it writes the weights
                anew (:mod:`mmwau.core.master_copies`).
        """
        refuse_optimizer(optimizer)
        if self.hold == 'grad' and isinstance(inner(optimizer), LBFGS):
            raise ValueError(
                "hold='grad' makes gradients zero before the step, and LBFGS computes them anew in "
                "it. Use hold='weight' with it"
            )
        if self.update_ratio == 1:
            return
        layers = list_layers(layers or ())
        own = {id(param) for group in inner(optimizer).param_groups for param in group['params']}
        tensors = [pair for layer in layers for pair in layer.tensors if id(pair[0]) in own]
        if self.hold == 'weight' or self.rescale:
            for param, _ in tensors:
                refuse_master_copy(inner(optimizer), param)
        if self.hold != 'state':
            return
        if are_whole(layers):
            refuse_whole_vector(inner(optimizer))
            return
        check_state(inner(optimizer))
        refuse_around(optimizer)
        starts = Starts(inner(optimizer))
        for param, dim in tensors:
            starts.check(param, dim)

    @contextmanager
    def holding(
        self,
        optimizer: Optimizer,
        layers: Layers,
        active: Sequence[Tensor],
        grads: ActiveGrads | MutableMapping[Parameter, Tensor] | None = None,
    ) -> Iterator[None]:
        """Hold the slices that are not active through the optimizer step made inside.

        Clipping of gradients belongs inside as well: under ``'state'`` and ``'grad'`` the
        gradients of held slices are zero from here on, so that only active slices count. For the
        same reason a closure, which computes gradients anew, is for ``'weight'`` only.

        Args:
            optimizer: The optimizer that makes the step. It may hold other parameters too.
            layers: The layers, as :meth:`select` got them.
            active: What it returned for them.
            grads: Where held gradients are skipped, the ``grads`` of the
                :class:`mmwau.skipping.HeldGradSkipper`. Under ``'state'`` the common optimizers
                then step over the active slices alone: inside, these are the parameters, and
                afterwards their ``grad`` is None.

        Whatever fails inside, held slices keep what they have to keep, and parameters, gradients
        and state have their shapes.

        Raises:
            ValueError: If the optimizer does not fit (see :meth:`check_optimizer`), there are
                ``grads`` that it can't use or of another selection, ``active`` is not that of
                the layers, or the step gets a closure that it can't have.
        """
        refuse_optimizer(optimizer)
        layers = list_layers(layers)
        is_whole = are_whole(layers)
        steps_alone = (
            self.hold == 'state'
            and grads is not None
            and not is_whole
            and can_step_active_alone(optimizer)
        )
        own = {id(param) for group in optimizer.param_groups for param in group['params']}
        if not steps_alone and any(id(param) in own for param in grads or ()):
            raise ValueError(
                "grads has gradients of active slices alone, which only hold='state' with an "
                'optimizer such as SGD or AdamW, and no hooks on its step, can use; got '
                f'hold={self.hold!r} and {type(optimizer).__name__}. Make the HeldGradSkipper with '
                'full_grads=True'
            )
        if isinstance(grads, ActiveGrads):
            grads.check(active, self.hold)
        slices = [one for one in find_slices(layers, active) if id(one.param) in own]
        if slices:
            refuse_capture()
        if slices and self.hold == 'state':
            (refuse_whole_vector if is_whole else check_state)(inner(optimizer))
            if not is_whole:
                refuse_around(optimizer)
        with torch.no_grad(), ExitStack() as held:
            if self.rescale:
                moving = find_moving(layers, active) if is_whole else slices
                held.enter_context(
                    rescale_movement([one for one in moving if id(one.param) in own])
                )
            if is_whole and self.hold == 'state':
                held.enter_context(leave_out(optimizer, slices))
            elif steps_alone and grads is not None:
                held.enter_context(step_active_alone(optimizer, slices, grads))
            else:
                if self.hold != 'weight':
                    # Of whole layers that were skipped, a step of everything needs gradients too.
                    skipped = isinstance(grads, ActiveGrads) and grads.active is not None
                    zero_grads(slices, where_none=is_whole and skipped)
                if self.hold == 'state':
                    held.enter_context(keep_state(inner(optimizer), slices))
                if self.hold != 'grad':
                    held.enter_context(keep_weights(slices))
            if slices and (self.hold == 'weight' or self.rescale):
                # Inside of all others: it compares the weights as the step leaves them.
                params = [param for layer in layers for param, _ in layer.tensors]
                held.enter_context(refuse_new_master_copies(inner(optimizer), params))
            if self.hold != 'weight' and hasattr(optimizer, '_optimizer_step_pre_hooks'):
                held.callback(optimizer.register_step_pre_hook(_refuse_closure).remove)
            with torch.enable_grad():
                yield
        if isinstance(grads, ActiveGrads) and not grads:
            grads.active = None


def _refuse_closure(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
    """Raise if a step that is made in :meth:`WAU.holding` gets a closure."""
    if any(one is not None for one in args[1:]) or kwargs.get('closure') is not None:
        raise ValueError(
            "Under hold='state' and 'grad' a step can't have a closure: gradients have to be there "
            'before. Call the closure first, and step() without it'
        )


setattr(_refuse_closure, NEEDS_NO_WHOLE, True)
