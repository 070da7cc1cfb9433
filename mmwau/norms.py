"""Which norm layers take the output of a convolution as it is."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# Attribute of a convolution's output while norm layers are sought; it goes with the tensor.
MARK = '_mmwau_output_of'


class NormSearch:
    """Finds them in the forward passes that are made until it is stopped.

    Args:
        model: The model, not wrapped for distributed training.
        convolutions: Convolutions of the model by name.

    Attributes:
        found: For each convolution that has run the names of the norm layers behind it.
    """

    def __init__(self, model: nn.Module, convolutions: Mapping[str, nn.Module]):
        self.found: dict[str, list[str]] = {}
        self._handles = [
            module.register_forward_hook(partial(self._mark, name))
            for name, module in convolutions.items()
        ]
        self._handles += [
            module.register_forward_pre_hook(partial(self._look, name))
            for name, module in model.named_modules()
            if isinstance(module, NORMS)
        ]

    def stop(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    def _mark(self, name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.found.setdefault(name, [])
        # The version tells whether something was added to the output in place.
        setattr(output, MARK, (name, output._version))

    def _look(self, norm: str, module: nn.Module, inputs: tuple) -> None:
        name, version = getattr(inputs[0], MARK, (None, None))
        if version == inputs[0]._version and norm not in self.found[name]:
            self.found[name].append(norm)
