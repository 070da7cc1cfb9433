"""The filters in a file of weights: which tensors are convolutions, and how their filters lie."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mmwau.overlap import shape_of_filters
from mmwau.targets import GROUPED, filter_dim, find_convolutions, why_no_filters

# Names of what is computed: weight norm, spectral norm, torch's parametrisations.
COMPUTED = (
    '.weight_orig',
    '.weight_v',
    '.parametrizations.weight.original0',
    '.parametrizations.weight.original1',
)
UPSAMPLING = ('deconv', 'upsample', 'transpose')
WITH_CONFIG = 'name its --config to have it measured'


@dataclass(frozen=True)
class Filters:
    """The filters of a convolution.

    Args:
        weight: The convolution's weight.
        dim: Dimension on which the filters lie: 0, or 1 for a transposed convolution.
        groups: Number of groups.
    """

    weight: Tensor
    dim: int = 0
    groups: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Number of filters in a group, and of values in a filter."""
        return shape_of_filters(self.weight, self.dim, self.groups)


def find_filters(
    weights: Mapping[str, Tensor], model: nn.Module | None = None
) -> tuple[dict[str, Filters], dict[str, str]]:
    """Find the convolutions in a state dict, with what can be known from the weights.

    A weight shows neither the number of groups nor whether it is transposed, so that without the
    model those that may be either are left out:

    - a filter of one input channel: depthwise, where there is nothing to compare with (unless it
      is the first convolution, which may see a grey image);
    - a kernel larger than 1 that takes a whole fraction (1/2, 1/3, ...) of the channels that the
      convolution before it gives: grouped;
    - a bias that does not fit, a name such as ``deconv``, or a kernel of even size whose bias does
      not show otherwise: transposed.

    Returns:
        The filters by name of the convolution, and the reasons by name for those left out. Linear
        layers, norms and the like are in neither.
    """
    known = {} if model is None else find_convolutions(model)
    found: dict[str, Filters] = {}
    left_out: dict[str, str] = {}
    before: Tensor | None = None
    for key, weight in weights.items():
        name, _, kind = key.rpartition('.')
        if key.endswith(COMPUTED):
            left_out[name.removesuffix('.parametrizations.weight')] = (
                'its weight is computed from other parameters'
            )
        if kind != 'weight' or weight.ndim not in (3, 4, 5) or not weight.is_floating_point():
            continue
        filters, module = Filters(weight), known.get(name)
        if model is None:
            reason = _reason(name, weight, weights.get(f'{name}.bias'), before)
        elif module is None or module.weight.shape != weight.shape:
            reason = 'the model of the config has no such convolution'
        else:
            filters = Filters(weight, filter_dim(module), module.groups)
            form = why_no_filters(module)
            # Of grouped ones, filters are compared within their group.
            reason = None if form in ('', GROUPED) else form
        if reason is None and not weight.isfinite().all():
            reason = 'it has values that are not finite: training diverged'
        if reason is None and filters.shape[0] == 1:
            reason = 'each of its filters has an input of its own (depthwise)'
        if reason is None:
            found[name] = filters
        else:
            left_out[name] = reason
        before = weight
    return found, left_out


def _reason(name: str, weight: Tensor, bias: Tensor | None, before: Tensor | None) -> str | None:
    """Why the layout of a weight's filters can't be known, or None if it can."""
    out_channels, in_channels, *kernel = weight.shape
    fits = bias is not None and bias.numel() == out_channels != in_channels
    even = before is not None and kernel[0] % 2 == 0
    named = any(part in name.lower() for part in UPSAMPLING)
    if named or (even and not fits) or (bias is not None and bias.numel() != out_channels):
        return f'it is or may be transposed, which a weight does not show; {WITH_CONFIG}'
    if before is None:
        return None
    if in_channels == 1 and out_channels > 1:
        return 'each of its filters has an input of its own (depthwise)'
    groups, rest = divmod(before.shape[0], in_channels)
    if max(kernel) > 1 and groups > 1 and rest == 0 and out_channels % groups == 0:
        return (
            f'it takes {in_channels} of the {before.shape[0]} channels before it and may be '
            f'grouped, which a weight does not show; {WITH_CONFIG}'
        )
    return None
