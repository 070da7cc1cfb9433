"""How much the loss would change without a filter, to first order."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from .pruning import Removable
from .training_loss import all_trainable


def taylor_criterion(
    model: nn.Module, layers: Mapping[str, Removable], losses: Iterable[Tensor]
) -> dict[str, Tensor]:
    """The Taylor criterion of every filter: the least important one has the smallest.

    Of an example it is ``|mean(dC/dz * z)|`` over the places of the filter's feature map ``z``: how
    much the loss ``C`` would change to first order if the map were zero. It is averaged over
    examples, and divided by the l2 norm of its layer's values (Molchanov et al., Pruning
    Convolutional Neural Networks for Resource Efficient Inference, 1611.06440, equations 7 and 8,
    and its layer-wise l2 normalization, which does not change the order within a layer).

    Maps are taken behind the norm that follows the convolution, or where none follows behind the
    convolution itself. The paper takes them behind the ReLU. Where one follows directly this is the
    same, since ``z`` times its gradient is that before the ReLU and behind it.

    Args:
        model: The network; its gradients are None afterwards.
        layers: Layers of it by name.
        losses: The loss of each example, computed as it is asked for: what the network does
            meanwhile is looked at.

    Returns:
        For each layer a float64 tensor of shape (filters,) on the CPU, each in [0, 1]. All 0 for a
        layer without influence on the losses.

    Raises:
        ValueError: If a loss or a gradient is no finite number, or no gradient reaches a layer.
    """
    # Of the example that is looked at: sums over its places, and how many places there are. A layer
    # may run several times, on each level of a pyramid say.
    sums: dict[str, Tensor] = {}
    places: dict[str, int] = defaultdict(int)
    scores = {name: torch.zeros(layer.num_filters).double() for name, layer in layers.items()}

    def keep(name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if not output.requires_grad:
            raise ValueError(
                f'No gradient reaches the output of {name}. If its stage recomputes activations, '
                'set with_cp to False; or leave it out of --targets'
            )
        # A copy, since a ReLU may change the output in place; its gradient is still that from here.
        values = output.detach().clone()
        output.register_hook(partial(add, name, values))

    def add(name: str, values: Tensor, gradient: Tensor) -> None:
        products = (values * gradient).transpose(0, 1).flatten(1).double()
        sums[name] = products.sum(dim=1).cpu() + sums.get(name, 0)
        places[name] += products.shape[1]

    handles = [
        module.register_forward_hook(partial(keep, name))
        for name, layer in layers.items()
        for module in layer.norms or (layer.convolution,)
    ]
    try:
        with all_trainable(model):
            for loss in losses:
                loss.backward()
                for name, total in sums.items():
                    scores[name] += (total / places[name]).abs()
                sums.clear()
                places.clear()
                model.zero_grad(set_to_none=True)
    finally:
        for handle in handles:
            handle.remove()
    broken = [name for name, each in scores.items() if not each.isfinite().all()]
    if broken:
        raise ValueError(
            f'The gradients of the loss are not finite in {broken[0]}: the checkpoint diverged, or '
            'a training image has a loss that is no number. Leave the order taylor out'
        )
    # Dividing by the number of examples too would change nothing.
    return {name: each / each.norm().clamp(min=1e-300) for name, each in scores.items()}
