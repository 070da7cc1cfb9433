"""Skip the gradients of held slices: a convolution computes those of its active slices alone.

Under ``hold='state'`` and ``'grad'`` nobody reads the gradients of held slices. The backward pass
of a convolution has two halves of about equal cost: the gradient of its input, which is needed in
full, and that of its weight, of which only the active slices are needed. A slice of the weight
takes part through one channel alone, of the output (``axis='out'``) or of the input (``'in'``), so
that the gradient of the active slices is that of a narrower convolution over those channels
(:mod:`mmwau.core.narrow_convolution`). Of a convolution that is held as a whole (``axis='layer'``)
nothing is computed for its parameters (:mod:`mmwau.core.detached_convolution`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn

from mmwau.core.detached_convolution import DetachedConvolution, why_not_whole
from mmwau.core.leaving import without_interrupts
from mmwau.core.method_patch import remove_stale
from mmwau.core.narrow_convolution import CONVOLUTIONS, NarrowConvolution, is_compiling, why_not
from mmwau.core.slices import ActiveGrads, Layer, find_slices, is_same_selection

# What takes the place of a method of a convolution.
Patch = NarrowConvolution | DetachedConvolution


class HeldGradSkipper:
    """Lets the convolutions of a model skip the gradients of held slices, between start and stop.

    The gradients of active slices are what they are without skipping, up to the order in which
    floats are summed. The result of the forward pass, the class of the modules and the keys of
    their state_dict do not change::

        layers = find_layers(model)
        skipper = HeldGradSkipper(model, layers)
        for update, batch in enumerate(batches):
            active = wau.select(layers, update)
            with skipper.skipping(active):
                loss_of(model, batch).backward()
            with wau.holding(optimizer, layers, active, skipper.grads):
                optimizer.step()
            optimizer.zero_grad()

    Args:
        model: The model, not wrapped for distributed training.
        layers: Its layers by name of the convolution, from :func:`mmwau.targets.find_layers`.
        full_grads: Where gradients go. True: into ``grad`` of each parameter, with zeros for the
            held slices. False: into :attr:`grads`, without the held slices; for ``hold='state'``
            with an optimizer that :func:`mmwau.core.holds.can_step_active_alone`. Of several
            processes each one does as with True: what they send each other is in ``grad``. Of
            layers that are held as a whole, False leaves no gradient at all.

    Attributes:
        grads: With ``full_grads=False``, gradients of active slices by parameter, for
            :meth:`mmwau.wau.WAU.holding`, which uses them up.
        refused: Reasons by name of the layer, of layers whose gradients are computed in full.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer], full_grads: bool = True):
        self.grads = ActiveGrads()
        self.refused: dict[str, str] = {}
        self._by_name: dict[str, Patch] = {}
        for name, layer in layers.items():
            module = model.get_submodule(name)
            for patch in (NarrowConvolution, DetachedConvolution):
                remove_stale(module, patch.method)
            reason = why_not_whole(module) if layer.is_whole else why_not(module)
            if reason:
                self.refused[name] = reason
            elif layer.is_whole:
                self._by_name[name] = DetachedConvolution(module, layer, self.grads, full_grads)
            else:
                assert isinstance(module, CONVOLUTIONS)  # or why_not has a reason
                self._by_name[name] = NarrowConvolution(module, layer, self.grads, full_grads)
        self._layers = list(layers.values())
        self._selected: list[Tensor] | None = None

    def start(self, active: Sequence[Tensor]) -> None:
        """Skip in every backward pass of a forward pass made from now on until :meth:`stop`.

        Args:
            active: For each layer a bool tensor of shape (num_slices,) on the CPU, True where
                active.

        Raises:
            ValueError: If there are gradients of another selection, for which no step was made.
        """
        self.stop()
        self.select(active)
        for convolution in self._by_name.values():
            convolution.start()

    def select(self, active: Sequence[Tensor]) -> None:
        """Find what is computed, and what is skipped, in the passes to come; see :meth:`start`."""
        if self._selected is not None and is_same_selection(self._selected, active):
            return
        if self.grads or (self.grads.active is not None and self._has_grads()):
            raise ValueError(
                'there are gradients of another selection, which do not add up with those of this '
                'one. Use one selection until the step, which WAU.holding(..., '
                'skipper.grads) surrounds; to drop an update, call skipper.grads.clear() too'
            )
        self.grads.active = None  # of an update that was dropped
        self._selected = None
        found = {slices.param: slices for slices in find_slices(self._layers, active)}
        for convolution in self._by_name.values():
            convolution.select(found.get(convolution.weight), active)
        self._selected = list(active)

    def _has_grads(self) -> bool:
        """Whether parameters of the layers have gradients other than zeros."""
        params = (param for layer in self._layers for param, _ in layer.tensors)
        return any(param.grad is not None and bool(param.grad.any()) for param in params)

    @property
    def convolutions(self) -> list[tuple[nn.Module, Patch]]:
        """The modules that skip, each with what starts and stops it."""
        return [(each.module, each) for each in self._by_name.values()]

    def stop(self) -> None:
        """Leave the modules as they were."""
        # Compiled code has no interrupts inside, and can't look at threads.
        with nullcontext() if is_compiling() else without_interrupts():
            for convolution in self._by_name.values():
                convolution.stop()

    def forget(self) -> None:
        """Forget the selection: graphs that are there already get all gradients."""
        self._selected = None
        for convolution in self._by_name.values():
            convolution.select(None, [])

    def flush(self) -> None:
        """Move what is in :attr:`grads` into ``grad`` of the parameters, in full."""
        for convolution in self._by_name.values():
            convolution.flush()
        self.grads.active = None

    def __reduce__(self) -> tuple:
        raise TypeError('a HeldGradSkipper belongs to its model: make a new one for a copy of it')

    @contextmanager
    def skipping(self, active: Sequence[Tensor]) -> Iterator[None]:
        """Skip in the forward and backward passes made inside; see :meth:`start`."""
        try:
            self.start(active)
            yield
        finally:
            self.stop()

    def find_full(self) -> dict[str, str]:
        """Find the layers that have skipped nothing so far, with the reasons."""
        full = {name: each.reason for name, each in self._by_name.items() if not each.has_skipped}
        return {**self.refused, **full}


def check_skip(skip_held_grads: bool | None, hold: str) -> bool:
    """Return whether to skip the gradients of held slices; raise where it can't be done."""
    if skip_held_grads not in (None, True, False):
        raise TypeError(
            'skip_held_grads must be True, False or None (where it can be done), got '
            f'{skip_held_grads!r}'
        )
    if skip_held_grads and hold == 'weight':
        raise ValueError(
            "skip_held_grads=True does not go with hold='weight': the optimizer's state takes the "
            "gradients of held slices too. Use hold='state', or leave skip_held_grads out"
        )
    return hold != 'weight' if skip_held_grads is None else bool(skip_held_grads)
