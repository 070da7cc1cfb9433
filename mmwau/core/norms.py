"""Which norm layers take the output of a convolution as it is."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# Attribute of a convolution's output while norm layers are sought; it goes with the tensor.
MARK = '_mmwau_output_of'


@contextmanager
def norms_behind(
    model: nn.Module, convolutions: Mapping[str, nn.Module]
) -> Iterator[dict[str, list[str]]]:
    """Find them in the forward passes that are made inside.

    Args:
        model: The model, not wrapped for distributed training.
        convolutions: Convolutions of the model by name.

    Yields:
        For each convolution that has run the names of the norm layers behind it.
    """
    found: dict[str, list[str]] = {}

    def mark(name: str, module: nn.Module, args: tuple, output: object) -> None:
        found.setdefault(name, [])
        if isinstance(output, Tensor):
            # The version shows whether something was added to the output in place.
            setattr(output, MARK, (name, output._version))

    def look(norm: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        # What is normalised may come as a keyword: norm(input=x).
        values = (*args, *kwargs.values())
        given = next((value for value in values if isinstance(value, Tensor)), None)
        if given is None:
            return
        name, version = getattr(given, MARK, (None, None))
        if name in found and version == given._version and norm not in found[name]:
            found[name].append(norm)

    with ExitStack() as stack:
        for name, module in convolutions.items():
            stack.callback(module.register_forward_hook(partial(mark, name)).remove)
        for name, module in model.named_modules():
            if isinstance(module, NORMS):
                hook = partial(look, name)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield found
