"""DSD: training that is dense, then sparse, then dense again."""

from collections.abc import Sequence

import torch
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmwau.core.checks import check_bool, check_count, check_fraction
from mmwau.targets import check_targets

from .leave_out import LeaveOutHook
from .weights import find_weights, first_convolution


@HOOKS.register_module()
class DSDHook(LeaveOutHook):
    """Train dense, then sparse, then dense (Han et al., DSD, 1607.04381, section 2).

    Before epoch ``begin`` the smallest weights of every layer become zero: of its ``N`` weights
    those whose absolute value is below the ``N * (1 - sparsity)``-th largest. They stay zero, bit
    for bit, until epoch ``end``, from which on they train with the others again, starting from
    zero and with no momentum. Biases and norm layers train throughout.

    In the paper each stage has a tenth of the learning rate of the one before (tables 2 and 4);
    that is for the ``param_scheduler``.

    Args:
        begin: First epoch of the sparse stage, at least 1.
        end: First epoch of the last dense stage, before the end of training.
        sparsity: Fraction of a layer's weights that is zero in the sparse stage, in (0, 1).
            Defaults to 0.3, which the paper takes for convolutional networks (section 4).
        targets: Prefixes of module names; the convolutions and linear layers below them that
            train become sparse. Defaults to all of the model, as in the paper.
        skip_first: Whether the first convolution of the model stays dense, as in the paper
            (section 4). Defaults to True.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        begin: int,
        end: int,
        sparsity: float = 0.3,
        targets: str | Sequence[str] = '',
        skip_first: bool = True,
    ):
        super().__init__()
        check_count('begin', begin, 1, 'epochs')
        check_count('end', end, begin + 1, f'epochs; begin is {begin}')
        check_fraction('sparsity', sparsity, "the part of a layer's weights that becomes zero")
        check_bool('skip_first', skip_first)
        self.begin, self.end, self.sparsity = begin, end, sparsity
        self.targets = check_targets(targets)
        self.skip_first = skip_first

    @property
    def whole_from(self) -> int:
        """First epoch of the last dense stage."""
        return self.end

    def phase_at(self, epoch: int) -> int | None:
        """0 in the sparse stage, None in the dense ones."""
        return 0 if self.begin <= epoch < self.end else None

    def prepare(self, runner: Runner, model: nn.Module) -> None:
        """Find the layers that become sparse."""
        self._layers = find_weights(model, self.targets)
        if self.skip_first:
            self._layers.pop(first_convolution(model), None)
        if not self._layers:
            raise ValueError(
                f'targets={self.targets!r} has only the first convolution, which skip_first=True '
                'leaves out'
            )

    def leave_out(self, runner: Runner, model: nn.Module, phase: int) -> None:
        """Find the smallest weights of every layer."""
        masks = {
            f'{name}.weight': smallest(module.weight, self.sparsity)
            for name, module in self.still_training(runner, self._layers).items()
        }
        self.state = {'masks': masks}
        zeros = sum(int(mask.sum()) for mask in masks.values())
        weights = sum(mask.numel() for mask in masks.values())
        runner.logger.info(
            f'DSD: {zeros} of {weights} weights in {len(masks)} layers are zero until epoch '
            f'{self.end}'
        )

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights that are zero."""
        return self.state['masks']

    def bring_back(self, runner: Runner, model: nn.Module) -> None:
        """Forget the masks: the weights start from the zero that they are."""
        self.state = {}
        runner.logger.info('DSD: all weights train again')


@torch.no_grad()
def smallest(weight: Tensor, sparsity: float) -> Tensor:
    """Find the smallest weights of a layer (DSD, algorithm 1).

    Args:
        weight: Weights of any shape.
        sparsity: Fraction of them to find, in (0, 1).

    Returns:
        Bool tensor of the same shape, True where the absolute value is below the k-th largest,
        ``k`` being ``N * (1 - sparsity)`` rounded, at least 1.
    """
    size = weight.abs()
    kept = max(1, round(size.numel() * (1 - sparsity)))
    # On the CPU: torch refuses kthvalue on a GPU where it has to be deterministic.
    threshold = size.flatten().cpu().kthvalue(size.numel() - kept + 1).values
    return size < threshold.to(size.device)
