"""What the methods of this package share: they change a training only during its iterations."""

from contextlib import AbstractContextManager, ExitStack

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from mmwau.engine.plan import Plan, Planned


class IterationHook(Planned, Hook):
    """Base of the hooks that change what a model or an optimizer does while it trains.

    MMEngine calls no hook when a training is left by an exception, such as Ctrl-C in a notebook.
    So the change is made anew in each iteration and undone however that ends: nothing of it stays
    in the model or in the optimizer.
    """

    def changed(self, runner: Runner) -> AbstractContextManager:
        """The context in which an iteration is made; it undoes at its end what it changed."""
        raise NotImplementedError

    def before_train(self, runner: Runner) -> None:
        """Check the run, and let the context surround the iterations.

        Raises:
            TypeError: If the train loop has no ``run_iter``, as a loop of one's own may.
        """
        self.check(Plan.of_runner(runner))
        loop = runner.train_loop
        if not hasattr(loop, 'run_iter'):
            raise TypeError(
                f'{type(self).__name__} works in train loops that have run_iter, as those of '
                f'MMEngine do; {type(loop).__name__} has none'
            )
        if not hasattr(loop, '_mmwau_hooks'):
            _surround(runner, loop)
        # A dict, so that a training that goes on after an interruption has each hook once.
        loop._mmwau_hooks[self] = None


def _surround(runner: Runner, loop: BaseLoop) -> None:
    run_iter = loop.run_iter
    hooks: dict[IterationHook, None] = {}

    def run(*args: object, **kwargs: object) -> object:
        with ExitStack() as stack:
            for hook in hooks:
                stack.enter_context(hook.changed(runner))
            return run_iter(*args, **kwargs)

    loop.run_iter, loop._mmwau_hooks = run, hooks
