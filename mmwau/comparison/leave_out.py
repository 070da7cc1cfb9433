"""What RePr and DSD share: a part of the network is left out for some epochs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from mmwau.core.holds import inner
from mmwau.core.sharding import refuse_sharded, sharded
from mmwau.engine.bare_model import bare_model
from mmwau.engine.optim_wrapper import WAUMixin
from mmwau.engine.plan import Plan
from mmwau.targets import list_updated

from .iteration_hook import IterationHook
from .weights import Weighted

Kind = TypeVar('Kind', bound=Weighted)


class LeaveOutHook(IterationHook):
    """Base of the hooks that leave a part of the network out for some epochs.

    What is left out is zero, and is made zero again right after every step of the optimizer,
    whatever momentum or weight decay did to it. When it is brought back, its elements of the
    optimizer's state are zero too. Clipping by norm counts the gradients of what is left out.

    What is left out, and all that is needed to bring it back, stands in every checkpoint as an
    entry with the hook's name, made of dicts, numbers and tensors.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        # The phase of epochs in which something is left out now, and what is known of it.
        self.phase: int | None = None
        self.state: dict = {}
        self._zeros: list[tuple[Parameter, Tensor]] = []
        self._loaded: dict | None = None

    @property
    def whole_from(self) -> int:
        """The epoch from which on nothing is left out any more."""
        raise NotImplementedError

    def phase_at(self, epoch: int) -> int | None:
        """The phase that an epoch belongs to, or None if nothing is left out in it."""
        raise NotImplementedError

    def prepare(self, runner: Runner, model: nn.Module) -> None:
        """Find the layers, just before training."""
        raise NotImplementedError

    def still_training(self, runner: Runner, layers: Mapping[str, Kind]) -> dict[str, Kind]:
        """Those of the layers that train now: what is frozen would never come back.

        Many backbones freeze their stages only when training begins.

        Raises:
            ValueError: If none of them does.
        """
        updated = list_updated(runner.optim_wrapper.optimizer)
        moving = {id(param) for param, moves in updated if moves and param.requires_grad}
        found = {name: layer for name, layer in layers.items() if id(layer.weight) in moving}
        if not found:
            raise ValueError(
                f'{type(self).__name__}: none of its layers trains: {", ".join([*layers][:5])} are '
                'frozen or have a learning rate of 0. Name others in targets, or unfreeze these'
            )
        return found

    def leave_out(self, runner: Runner, model: nn.Module, phase: int) -> None:
        """Choose what is left out, and keep in ``state`` what is needed to bring it back."""
        raise NotImplementedError

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """What is left out: by name of the parameter a bool tensor of its shape."""
        raise NotImplementedError

    def bring_back(self, runner: Runner, model: nn.Module) -> None:
        """Give what was left out the values that it starts from."""
        raise NotImplementedError

    def before_run(self, runner: Runner) -> None:
        """Forget another run that had this hook, one that was interrupted say."""
        if runner.iter == 0:
            self._forget()

    def before_train(self, runner: Runner) -> None:
        """Check the run, and go on leaving out what a resumed run has left out.

        Raises:
            TypeError: See :meth:`check`; or if the train loop has no ``run_iter``.
            ValueError: See :meth:`check`; or if no layer matches ``targets``.
        """
        refuse_sharded(runner.model, type(self).__name__)
        super().before_train(runner)
        # A run that starts from the weights in a checkpoint has left nothing out yet.
        if self._loaded is not None and runner.iter > 0:
            self.phase, self.state = self._loaded['phase'], self._loaded['state']
        self._loaded = None
        model = bare_model(runner.model)
        self.prepare(runner, model)
        if self.phase is not None:
            self._hold(model)

    def before_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Leave out, or bring back, what the epoch asks for."""
        phase = self.phase_at(runner.epoch)
        if phase == self.phase:
            return
        model = bare_model(runner.model)
        with torch.no_grad():
            if self.phase is not None:
                self.bring_back(runner, model)
                for param, mask in self._zeros:
                    _clear_state(runner.optim_wrapper.optimizer, param, mask)
                self.phase, self._zeros = None, []
            if phase is not None:
                self.leave_out(runner, model, phase)
                self.phase = phase
                self._hold(model)

    @contextmanager
    def changed(self, runner: Runner) -> Iterator[None]:
        """Keep what is left out at zero in the steps made inside."""
        optimizer = runner.optim_wrapper.optimizer
        handle = optimizer.register_step_post_hook(lambda *args: self._zero())
        try:
            yield
        finally:
            handle.remove()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put what is left out into the checkpoint."""
        # As MMEngine does with all else: who loads it need not have a GPU.
        state = apply_to(self.state, torch.is_tensor, torch.Tensor.cpu)
        checkpoint[type(self).__name__] = {'phase': self.phase, 'state': state}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what a run has left out, in case that this one goes on with it."""
        self._loaded = checkpoint.get(type(self).__name__)

    def after_train(self, runner: Runner) -> None:
        """Log it if training was stopped early, with a part left out."""
        if self.phase is not None:
            runner.logger.warning(
                f'{type(self).__name__}: training ended after epoch {runner.epoch} with a part of '
                'the network left out, which is zero in the last checkpoint. To bring it back, '
                f'train on beyond epoch {self.whole_from}'
            )

    def _hold(self, model: nn.Module) -> None:
        params = dict(model.named_parameters(remove_duplicate=False))
        self._zeros = [
            (params[name], mask.to(params[name].device)) for name, mask in self.masks(model).items()
        ]
        self._zero()

    @torch.no_grad()
    def _zero(self) -> None:
        for param, mask in self._zeros:
            param.masked_fill_(mask, 0)

    def check(self, plan: Plan) -> None:
        """Raise if the training is none for this.

        Raises:
            TypeError: If its optimizer wrapper is that of WAU or of several optimizers, or
                parameters are cut over processes.
            ValueError: If two such hooks meet, or it counts no epochs, or ends before all is
                brought back.
        """
        name = type(self).__name__
        if plan.sharding is not None:
            raise TypeError(sharded(plan.sharding, name))
        if plan.wrapper is not None and issubclass(plan.wrapper, OptimWrapperDict):
            raise TypeError(
                f'{name} works with one optimizer; optim_wrapper is an {plan.wrapper_name}'
            )
        if plan.wrapper is not None and issubclass(plan.wrapper, WAUMixin):
            raise TypeError(
                f'{name} and {plan.wrapper_name} each decide which filters or weights train, and '
                "are there to be compared: set optim_wrapper.type to 'OptimWrapper', or remove "
                f'{name}'
            )
        alike = [hook.__name__ for hook in plan.hooks if issubclass(hook, LeaveOutHook)]
        if len(alike) > 1:
            raise ValueError(
                f'custom_hooks has {" and ".join(alike)}, each of which leaves a part of the '
                'network out; keep one of them'
            )
        if plan.counts_iterations:
            raise ValueError(
                f'{name} counts epochs, but training counts only iterations '
                '(IterBasedTrainLoop). Set train_cfg.by_epoch=True'
            )
        if plan.max_epochs is not None and plan.max_epochs <= self.whole_from:
            raise ValueError(
                f'{name} brings the last part of the network back before epoch {self.whole_from}, '
                f'counted from 0, but training ends after {plan.max_epochs} epochs. Train longer, '
                'or let it begin earlier or last shorter'
            )


def _clear_state(optimizer: Optimizer, param: Parameter, mask: Tensor) -> None:
    """Set elements of the optimizer's state of a parameter to zero, where every state starts."""
    for value in inner(optimizer).state.get(param, {}).values():
        if isinstance(value, Tensor) and value.shape == param.shape:
            value.masked_fill_(mask, 0)
