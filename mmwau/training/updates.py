"""The updates of one training: which layers are held, and the selection of the update under way.

:class:`mmwau.wau.WAU` has no state. A training has: how many steps were made, which parameters
there are, what is selected now. The optimizer wrappers and :func:`mmwau.attach` share it here.
"""

import logging
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmwau.core.holds import can_step_active_alone
from mmwau.core.leaving import each_on_leaving, without_interrupts
from mmwau.core.narrow_convolution import is_compiling
from mmwau.core.slices import Layer
from mmwau.skipping import HeldGradSkipper
from mmwau.targets import find_layers, find_left_out, list_updated
from mmwau.wau import WAU

from .messages import Message, about_layers, about_skipping

# For so many updates active slices are selected at once.
AHEAD = 8


class Updates:
    """The updates of one model by one optimizer.

    Args:
        model: The model, not wrapped for distributed training.
        optimizer: The optimizer.
        wau: The rule. Another one may be set at any time; it is in force from the next update on.
        targets: See :func:`mmwau.targets.find_layers`.
        axis: See :func:`mmwau.targets.find_layers`.
        skips: Whether the gradients of held slices are skipped.
        full_grads: See :class:`mmwau.skipping.HeldGradSkipper`.
        index: Number of the updates that were made before.
        log: Takes what is worth knowing.
        on_change: Is called whenever the layers were found anew in training.

    Attributes:
        index: Index of the update under way, which is the number of steps that were made before.
        layers: The layers by name of their convolution; empty where nothing trains.
        skipper: What skips the gradients of held slices, or None.
        active: The selection of the update under way, or None between updates.
        skipped: The same for :attr:`layers` as they are now, some of which may have been frozen in
            this update: for what is skipped and what is sent.
        active_fraction: Fraction of all slices that is active in the last update, in (0, 1], or
            None before the first.
        active_parts: Where slices are whole layers, the fraction of their ``'filter'`` and
            ``'parameter'`` numbers that was active.

    Raises:
        TypeError: See :func:`mmwau.targets.find_layers`.
        ValueError: If there is no convolution to hold, or the optimizer does not fit (see
            :meth:`mmwau.wau.WAU.check_optimizer`).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        wau: WAU,
        targets: tuple[str, ...],
        axis: str,
        skips: bool,
        full_grads: bool,
        index: int,
        log: Callable[[Message], None],
        on_change: Callable[[], None] = lambda: None,
    ):
        self.model, self.optimizer, self.wau = model, optimizer, wau
        self.targets, self.axis = targets, axis
        self.skips, self.full_grads = skips, full_grads
        self.index = index
        self.layers: dict[str, Layer] = {}
        self.skipper: HeldGradSkipper | None = None
        self.active: list[Tensor] | None = None
        self.skipped: list[Tensor] = []
        # The layers of the update under way.
        self._held: dict[str, Layer] = {}
        self.active_fraction: float | None = None
        self.active_parts: dict[str, float] = {}
        # In force since the update under way began.
        self._rule, self._has_begun = wau, False
        # Selections by the rule that made them, and the update.
        self._ahead: dict[tuple[WAU, int], list[Tensor]] = {}
        self._log, self._on_change = log, on_change
        self._told: set[Message] = set()
        self._has_told_skipping = False
        self._find_layers()
        wau.check_optimizer(optimizer, self.layers)

    def start(self) -> None:
        """Begin an update, if none is under way: select its active slices."""
        # Ctrl-C in between would leave the layers of before with the selection of now.
        with nullcontext() if is_compiling() else without_interrupts():
            if not self._has_begun:
                self._rule, self._has_begun = self.wau, True
            self._follow_changes()
            if self.active is None and self.layers:
                self._select(self.layers)

    def end(self) -> None:
        """End the update, whether its step was made or not; the next one selects anew.

        Gradients that are there stay: without a step, make them zero before the next update.
        """
        self.active, self._has_begun = None, False
        self.flush()

    def flush(self) -> None:
        """Put gradients that the skipper keeps aside into ``grad`` of the parameters."""
        if self.skipper is not None:
            self.skipper.flush()

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Skip the gradients of held slices in the forward and backward passes made inside."""
        if self.skipper is None or self.active is None:
            yield
        else:
            with self.skipper.skipping(self.skipped):
                yield

    def step(self, make_step: Callable[..., object], *args: Any, **kwargs: Any) -> object:
        """Make an optimizer step in which slices are held; whatever fails in it, the update ends.

        The arguments are those of ``make_step``, the first of which may be a closure. It returns
        what that does, or the closure.
        """
        with each_on_leaving() as put_in_order:
            put_in_order.append(self.end)
            closure = args[0] if args else kwargs.get('closure')
            result = None
            if closure is not None and self.wau.hold != 'weight':
                # Gradients have to be there when those of held slices are made zero.
                args, kwargs = args[1:], {**kwargs}
                kwargs.pop('closure', None)
                with torch.enable_grad():
                    result = closure()
            self.start()
            self.index += 1
            if self.active is None:
                returned = make_step(*args, **kwargs)
            else:
                grads = None if self.skipper is None else self.skipper.grads
                if self.skipped is not self.active or not can_step_active_alone(self.optimizer):
                    self.flush()
                with self._rule.holding(self.optimizer, self._held, self.active, grads):
                    returned = make_step(*args, **kwargs)
                self._tell_skipping()
            return returned if result is None else result

    def _select(self, layers: dict[str, Layer], kept: Mapping[str, Tensor] | None = None) -> None:
        """Select from the layers of the update under way.

        What is kept is the selection of those of which gradients were computed already.
        """
        self._held = layers
        if layers is self.layers and not kept:
            self.active = self.skipped = self._select_ahead()
        else:
            drawn = dict(zip(layers, self._rule.select(layers, self.index), strict=True))
            drawn.update(kept or {})
            self.active = self.skipped = list(drawn.values())
            if layers.keys() != self.layers.keys():
                self.skipped = [drawn[name] for name in self.layers]
        is_active = torch.cat(self.active)
        self.active_fraction = int(is_active.sum()) / len(is_active)
        if self.axis == 'layer':
            sizes = [(layer.num_filters, layer.num_parameters) for layer in layers.values()]
            of_all = torch.tensor(sizes, dtype=torch.float64)
            fractions = of_all[is_active].sum(0) / of_all.sum(0)
            self.active_parts = dict(zip(('filter', 'parameter'), fractions.tolist(), strict=True))

    def _select_ahead(self) -> list[Tensor]:
        """Select for several updates at once, which takes little longer than for one."""
        if (self._rule, self.index) not in self._ahead:
            updates = range(self.index, self.index + AHEAD)
            selections = self._rule.select_each(self.layers, updates)
            cases = [(self._rule, update) for update in updates]
            self._ahead = dict(zip(cases, selections, strict=True))
        return self._ahead[self._rule, self.index]

    def _find_layers(self) -> None:
        self.flush()
        where = self.model, self.targets, self.axis, self.optimizer
        self._parameters = self._list_parameters()
        self.active = self.skipper = None
        self._ahead = {}
        self.layers, self._has_told_skipping = {}, False
        self.layers = find_layers(*where)
        left_out = find_left_out(*where)
        for message in about_layers(self.wau, self.axis, self.targets, self.layers, left_out):
            self._tell(message)
        if self.skips:
            # Only under 'grad' does a step look at what is held as a whole.
            full_grads = self.wau.hold == 'grad' if self.axis == 'layer' else self.full_grads
            self.skipper = HeldGradSkipper(self.model, self.layers, full_grads)

    def _list_parameters(self) -> list[object]:
        """All that decides which layers are held, one after another, to compare by identity.

        First the modules of the model with their parameters and names, then the parameters that
        the optimizer updates. It is looked at in every update, and ``named_modules`` takes long.
        """
        found: list[object] = []
        modules = [self.model]
        seen: set[nn.Module] = set()
        while modules:
            module = modules.pop()
            found.append(module)
            for param in module._parameters.values():
                if param is not None:
                    found += (param, type(param), param.requires_grad)
            if module._modules and module not in seen:
                seen.add(module)
                found += module._modules
                modules += (child for child in module._modules.values() if child is not None)
        for pair in list_updated(self.optimizer):
            found += pair
        return found

    def _follow_changes(self) -> None:
        """Find the layers anew after parameters came, went, were frozen or unfrozen in training."""
        now, before = self._list_parameters(), self._parameters
        if len(now) == len(before) and all(map(operator.is_, now, before)):
            return
        is_under_way = self.active is not None
        selected = dict(zip(self._held, self.active or (), strict=is_under_way))
        under_way = {name: self._held[name] for name in selected}
        try:
            self._find_layers()
        except ValueError as error:
            self.active_fraction, self.active_parts = None, {}
            text = f'WAU holds nothing from now on: {error}'
            self._tell(Message(logging.WARNING, text))
        held = self._with_frozen(under_way)
        if is_under_way and held:
            # Of whole layers, a selection from others would be another one.
            kept = {
                name: mask
                for name, mask in selected.items()
                if name in held and held[name].num_slices == len(mask)
            }
            self._select(held, kept)
        self._on_change()

    def _with_frozen(self, before: Mapping[str, Layer]) -> dict[str, Layer]:
        """The layers, with what was frozen of those that this update had before.

        It may have gradients, with which the step of this update would move it.
        """
        here = {id(param) for param in self.model.parameters()}
        here -= {id(param) for layer in self.layers.values() for param, _ in layer.tensors}
        held = dict(self.layers)
        for name, layer in before.items():
            frozen = tuple(pair for pair in layer.tensors if id(pair[0]) in here)
            now = self.layers.get(name)
            if now is not None and now.num_slices == layer.num_slices:
                held[name] = now._replace(tensors=(*now.tensors, *frozen))
            elif now is None and frozen:
                held[name] = layer._replace(tensors=frozen)
        return held

    def _tell(self, message: Message) -> None:
        """Log what was not logged before: layers may be frozen and unfrozen in each iteration."""
        if message not in self._told:
            self._told.add(message)
            self._log(message)

    def _tell_skipping(self) -> None:
        """Log after the first update in how many layers gradients are skipped, and why not."""
        if self.skipper is None or self._has_told_skipping or self.active_fraction == 1:
            return
        self._has_told_skipping = True
        for message in about_skipping(self.skipper.find_full(), len(self.layers)):
            self._tell(message)
