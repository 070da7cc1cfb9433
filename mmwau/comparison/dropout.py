"""Dropout on the outputs of modules of a network that has none."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..checks import check_bool, check_fraction
from ..random_numbers import random_numbers


@HOOKS.register_module()
class DropoutHook(Hook):
    """Drop elements of what modules put out while the model trains (Srivastava et al., JMLR 2014).

    Each element is zero with probability ``drop_prob`` and divided by ``1 - drop_prob`` else, as
    ``torch.nn.Dropout`` does it. A config can't put such a layer into most backbones; this hook
    stands in for one, in front of what takes the output. In evaluation nothing is dropped.

    What is dropped is a function of the run's seed, the iteration, the process and the module's
    name. So the run sees the same data as without this hook, resumes to the same bits, and
    recomputed activations (``with_cp=True``) are the same.

    Args:
        drop_prob: Probability for an element to be dropped, in (0, 1).
        modules: Names of modules whose output is a tensor, or patterns of names, in which ``*``
            stands for any characters: ``'backbone.stage*.unit*.body.conv1'``.
        channels: Drop whole channels, as ``torch.nn.Dropout2d`` does. Defaults to False.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``drop_prob`` is out of its range.
    """

    def __init__(self, drop_prob: float, modules: str | Sequence[str], channels: bool = False):
        check_fraction('drop_prob', drop_prob, 'the probability to be dropped')
        check_bool('channels', channels)
        patterns = (modules,) if isinstance(modules, str) else modules
        if (
            not isinstance(patterns, (list, tuple))
            or not patterns
            or not all(isinstance(pattern, str) and pattern for pattern in patterns)
        ):
            raise TypeError(
                f"modules must be names of modules such as 'backbone.layer1', got {modules!r}"
            )
        self.drop_prob, self.channels = drop_prob, channels
        self.patterns = tuple(patterns)

    def before_train(self, runner: Runner) -> None:
        """Find the modules.

        Raises:
            ValueError: If a name or pattern matches no module.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        names = [name for name, _ in model.named_modules()]
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                some = ', '.join(names[1:8])
                raise ValueError(
                    f'modules: no module of {type(model).__name__} is called {pattern!r}. Modules '
                    f'that exist are for example: {some}'
                )
        matched = [name for name in names if any(fnmatchcase(name, one) for one in self.patterns)]
        self._handles = [
            model.get_submodule(name).register_forward_hook(self._drop_after(runner, model, name))
            for name in matched
        ]
        runner.logger.info(
            f'Dropout with drop_prob={self.drop_prob}, channels={self.channels} after '
            f'{len(matched)} modules: {", ".join(matched)}'
        )

    def after_train(self, runner: Runner) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    def _drop_after(self, runner: Runner, model: nn.Module, name: str) -> Callable:
        def drop(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            if not isinstance(output, Tensor):
                raise TypeError(
                    f'modules: the output of {name!r} is a {type(output).__name__}, not a tensor; '
                    'name a module inside of it'
                )
            # A norm layer in evaluation mode (norm_eval) does not end the training of the model.
            if not model.training:
                return output
            time = f'{runner.seed}/{runner.iter}/{get_rank()}'
            return drop_out(output, self.drop_prob, self.channels, time, name)

        return drop


def drop_out(output: Tensor, drop_prob: float, channels: bool, time: str, name: str) -> Tensor:
    """Drop elements, or channels, of a tensor.

    Args:
        output: Tensor of shape (N, C, ...).
        drop_prob: Probability to be dropped, in (0, 1).
        channels: Whether to drop channels.
        time: See :func:`mmwau.random_numbers.random_numbers`.
        name: The same. Both together decide what is dropped.

    Returns:
        Tensor of the same shape.
    """
    seed = int(random_numbers([time], [name], [1]).item() * 2**53)
    generator = torch.Generator(output.device).manual_seed(seed)
    shape = output.shape[:2] + (1,) * (output.dim() - 2) if channels else output.shape
    kept = torch.rand(shape, generator=generator, device=output.device) >= drop_prob
    return output * kept / (1 - drop_prob)
