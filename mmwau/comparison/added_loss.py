"""What methods share that add a term to the loss."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.runner import Runner
from torch import Tensor, nn

from mmwau.engine.bare_model import bare_model

from .iteration_hook import IterationHook


class AddedLossHook(IterationHook):
    """Base of the hooks that add to the losses which a model returns in training.

    What they add has a name of its own, under which it is logged too. So gradient accumulation,
    mixed precision and several processes treat it as any other loss.
    """

    loss_name: str

    def added(self, runner: Runner, args: tuple, kwargs: dict) -> Tensor:
        """What is added, a tensor with no dimension.

        Args:
            runner: The runner.
            args: Arguments of the model's forward pass, of which the losses are.
            kwargs: Those by name.
        """
        raise NotImplementedError

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Raise if the model has no place for it."""
        if not self._has_joined:
            raise TypeError(
                f'{type(self).__name__} adds to the dict of losses that a model returns from '
                f'forward(mode="loss"), and {type(bare_model(runner.model)).__name__} returned none'
            )

    @contextmanager
    def changed(self, runner: Runner) -> Iterator[None]:
        """Let it join the losses of the forward passes made inside."""
        own = bare_model(runner.model)
        self._has_joined = False

        def join(model: nn.Module, args: tuple, kwargs: dict, losses: object) -> object:
            # A copy made in an iteration has this hook too, and is a plain model.
            if model is not own or not model.training or not isinstance(losses, dict):
                return losses
            self._has_joined = True
            return {**losses, self.loss_name: self.added(runner, args, kwargs)}

        handle = own.register_forward_hook(join, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
