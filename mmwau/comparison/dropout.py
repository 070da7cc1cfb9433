"""Dropout on the outputs of modules of a network that has none."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase

import torch
from mmengine.dist import get_rank
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmwau.core.checks import check_bool, check_fraction
from mmwau.core.random_numbers import random_numbers
from mmwau.engine.bare_model import bare_model

from .iteration_hook import IterationHook


@HOOKS.register_module()
class DropoutHook(IterationHook):
    """Drop elements of what modules put out while the model trains (Srivastava et al., JMLR 2014).

    Each element is zero with probability ``drop_prob`` and divided by ``1 - drop_prob`` else, as
    ``torch.nn.Dropout`` does it. A config can't put such a layer into most backbones; this hook
    stands in for one, in front of what takes the output. In evaluation nothing is dropped.

    What is dropped is a function of the run's seed, the iteration, the process, the module's name,
    and how often it was used in the iteration before, as a head is that sees several levels of a
    pyramid. So the run sees the same data as without this hook, and resumes to the same bits.
    Recomputed activations (``with_cp=True``) have the same elements dropped as the first time.

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
        self._modules: dict[str, nn.Module] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the modules.

        Raises:
            TypeError: If the train loop has no ``run_iter``.
            ValueError: If a name or pattern matches no module, or two hooks have a module.
        """
        super().before_train(runner)
        model = bare_model(runner.model)
        names = [name for name, _ in model.named_modules()]
        for pattern in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                some = ', '.join(names[1:8])
                raise ValueError(
                    f'modules: no module of {type(model).__name__} is called {pattern!r}. Modules '
                    f'that exist are for example: {some}'
                )
        matched = [name for name in names if any(fnmatchcase(name, one) for one in self.patterns)]
        self._modules = {name: model.get_submodule(name) for name in matched}
        others = [it for it in runner.hooks if isinstance(it, DropoutHook) and it is not self]
        twice = next((name for it in others for name in matched if name in it._modules), None)
        if twice is not None:
            raise ValueError(
                f'custom_hooks has two DropoutHooks for {twice!r}, which would drop the same '
                'elements. Name each module in one of them'
            )
        runner.logger.info(
            f'Dropout with drop_prob={self.drop_prob}, channels={self.channels} after '
            f'{len(matched)} modules: {", ".join(matched)}'
        )

    @contextmanager
    def changed(self, runner: Runner) -> Iterator[None]:
        """Drop in the forward passes made inside."""
        model = bare_model(runner.model)
        time = f'{runner.seed}/{runner.iter}/{get_rank()}'
        with ExitStack() as stack:
            for name, module in self._modules.items():
                hook = self._drop_after(model, module, name, time)
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _drop_after(self, model: nn.Module, own: nn.Module, name: str, time: str) -> Callable:
        uses = Uses()

        def drop(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            if not isinstance(output, Tensor):
                raise TypeError(
                    f'modules: the output of {name!r} is a {type(output).__name__}, not a tensor; '
                    'name a module inside of it'
                )
            # A norm layer in evaluation mode (norm_eval) does not end the training of the model.
            # A copy made in an iteration has this hook too, and is a plain module.
            if not model.training or module is not own:
                return output
            use = uses.number(output)
            time_of_use = f'{time}/{use}' if use else time
            return drop_out(output, self.drop_prob, self.channels, time_of_use, name)

        return drop


class Uses:
    """Numbers the uses of a module in an iteration."""

    def __init__(self) -> None:
        self._shapes: list[torch.Size] = []
        self._sums: list[Tensor] = []
        self._times_recomputed: list[int] = []

    @torch.no_grad()
    def number(self, output: Tensor) -> int:
        """Number of the use that gives this output, from 0.

        In a backward pass activation checkpointing recomputes an earlier use, which has the number
        that it had. Only the output shows which one it is: the one whose sum is nearest, since some
        kernels round differently each time. Of several uses with the same output, as those
        of two passes over the same images, the last is recomputed first.
        """
        total = output.sum(dtype=torch.float32)
        if torch._C._current_graph_task_id() >= 0:  # in a backward pass
            alike = [use for use, shape in enumerate(self._shapes) if shape == output.shape]
            if alike:
                sums = torch.stack([self._sums[use] for use in alike])
                apart = (sums - total).abs().tolist()
                *_, use = min(
                    (distance, self._times_recomputed[use], -use)
                    for use, distance in zip(alike, apart, strict=True)
                )
                use = -use
                self._times_recomputed[use] += 1
                return use
        self._shapes.append(output.shape)
        self._sums.append(total)
        self._times_recomputed.append(0)
        return len(self._sums) - 1


def drop_out(output: Tensor, drop_prob: float, channels: bool, time: str, name: str) -> Tensor:
    """Drop elements, or channels, of a tensor.

    Args:
        output: Tensor of shape (N, C, ...).
        drop_prob: Probability to be dropped, in (0, 1).
        channels: Whether to drop channels.
        time: See :func:`mmwau.core.random_numbers.random_numbers`.
        name: The same. Both together decide what is dropped.

    Returns:
        Tensor of the same shape.
    """
    seed = int(random_numbers([time], [name], [1]).item() * 2**53)
    generator = torch.Generator(output.device).manual_seed(seed)
    shape = output.shape[:2] + (1,) * (output.dim() - 2) if channels else output.shape
    kept = torch.rand(shape, generator=generator, device=output.device) >= drop_prob
    return output * kept / (1 - drop_prob)
