"""WAU's hook in MMEngine: what WAU does, in the log and as pictures."""

import math
from collections.abc import Iterable, Mapping, Sequence

from mmengine.dist import is_distributed
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmwau.core.checks import check_bool

from .optim_wrapper import WAUMixin
from .overlap_hook import OverlapHook
from .plan import Plan
from .ratio_schedule import RatioSchedule
from .resume import FRACTIONS, forget_scalars
from .wrapper_checks import check_send, wrong_runner

# Kept in the message hub, which is part of every checkpoint.
SCHEDULE = 'wau_ratio_schedule'


@HOOKS.register_module()
class WAUHook(OverlapHook):
    """Log what WAU does with the other training scalars, and the overlap of the held layers.

    - ``train/active_fraction``: the fraction of all slices that was active in the last update. If
      they are whole layers, also ``train/active_filter_fraction`` and
      ``train/active_parameter_fraction``, which count their filters and parameters.
    - ``train/update_ratio``, where a schedule changes it.
    - ``train/sent_mb`` under ``send_active_only``: megabytes of gradients that each process sent to
      the others in the last update.
    - The overlap of the held layers, their stages and the network, and its pictures: see
      :class:`mmwau.OverlapHook`.

    Args:
        overlap_interval: Iterations between two measurements of the overlap, at least 1.
        ratio_schedule: Stretches of training with an update ratio of their own, see
            :class:`mmwau.engine.ratio_schedule.RatioSchedule`. Outside of them the wrapper's
            ``update_ratio`` is in force. Defaults to None.
        by_epoch: Whether the schedule counts epochs or iterations. Defaults to True.
        send_active_only: Whether the processes of a distributed training send each other the
            gradients of only the active slices (:mod:`mmwau.traffic`). Not for
            ``hold='weight'``, which needs all of them. Defaults to False.
        movement: See :class:`mmwau.OverlapHook`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If ``overlap_interval`` is below 1, or the schedule is wrong.
    """

    def __init__(
        self,
        overlap_interval: int = 500,
        ratio_schedule: Mapping | Sequence[Mapping] | None = None,
        by_epoch: bool = True,
        send_active_only: bool = False,
        movement: bool = False,
    ):
        super().__init__(overlap_interval, movement=movement)
        check_bool('by_epoch', by_epoch)
        check_bool('send_active_only', send_active_only)
        self.send_active_only = send_active_only
        self.ratio_schedule = None if ratio_schedule is None else RatioSchedule(ratio_schedule)
        self.by_epoch = by_epoch
        self._wrapper: WAUMixin | None = None

    def check(self, plan: Plan) -> None:
        """Raise if the training is none for this.

        Raises:
            TypeError: If its optimizer wrapper is not WAU's.
            ValueError: If two hooks measure the overlap, the schedule counts epochs in a training
                that has none, or held gradients are left out of what is sent, but needed.
        """
        if plan.wrapper_name == 'OptimWrapperDict':
            raise TypeError(
                'WAUHook is in custom_hooks, but optim_wrapper is an OptimWrapperDict, which does '
                'not pass the model to its parts: WAU does not work with several optimizers'
            )
        if plan.wrapper is None or not issubclass(plan.wrapper, WAUMixin):
            wanted = 'WAUAmpOptimWrapper' if 'Amp' in plan.wrapper_name else 'WAUOptimWrapper'
            raise TypeError(
                f'WAUHook is in custom_hooks, but optim_wrapper.type is {plan.wrapper_name!r}: '
                f"nothing would be held. Set optim_wrapper.type to '{wanted}' (the --amp of other "
                'training scripts replaces the type; the one of mmwau keeps WAU), or remove '
                'WAUHook.'
            )
        super().check(plan)
        if self.ratio_schedule is not None and self.by_epoch and plan.counts_iterations:
            raise ValueError(
                'WAUHook: ratio_schedule counts epochs, but training counts only iterations '
                '(IterBasedTrainLoop), and its epoch is always 0. Set by_epoch=False and count '
                'iterations'
            )
        if self.send_active_only:
            check_send(plan.hold)

    def before_train(self, runner: Runner) -> None:
        """Measure the overlap at the start, and arrange what the processes send.

        Raises:
            TypeError: See :meth:`check`; or if the runner does not pass the model to the optimizer
                wrapper, or ``send_active_only`` meets another wrapper than
                ``DistributedDataParallel``.
            ValueError: See :meth:`check`; or if ``send_active_only`` can't be done.
        """
        self.check(Plan.of_runner(runner))
        if not runner.optim_wrapper.layers:
            raise TypeError(wrong_runner(type(runner).__name__))
        if runner.optim_wrapper is not self._wrapper:
            # A training that was interrupted goes on with the ratio of a phase in its wrapper.
            self._wrapper = runner.optim_wrapper
            self._ratio_of_wrapper = self._wrapper.update_ratio
        self._log_schedule(runner)
        if self.send_active_only and is_distributed():
            runner.optim_wrapper.send_active_only(runner.model)
        super().before_train(runner)

    def before_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Set the update ratio that the schedule has for this epoch or iteration."""
        if self.ratio_schedule is None:
            return
        ratio = self.ratio_schedule.at(runner.epoch if self.by_epoch else runner.iter)
        wrapper = runner.optim_wrapper
        wrapper.update_ratio = self._ratio_of_wrapper if ratio is None else ratio
        runner.message_hub.update_scalar('train/update_ratio', wrapper.update_ratio)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Log the active fraction, and the overlap at its interval."""
        hub = runner.message_hub
        fraction = runner.optim_wrapper.updates.active_fraction
        if fraction is not None:
            hub.update_scalar('train/active_fraction', fraction)
        elif 'train/active_fraction' in hub.log_scalars:  # nothing is held any more
            forget_scalars(FRACTIONS, hub.log_scalars, hub._resumed_keys)
        for part, of_part in runner.optim_wrapper.updates.active_parts.items():
            hub.update_scalar(f'train/active_{part}_fraction', of_part)
        traffic = runner.optim_wrapper.traffic
        if traffic is not None:
            hub.update_scalar('train/sent_mb', traffic.sent_bytes / 1e6)
        super().after_train_iter(runner, *args, **kwargs)

    def after_train(self, runner: Runner) -> None:
        """Leave no update open, then draw the overlap."""
        # Training that is stopped early may end in the middle of an update.
        runner.optim_wrapper.end_update()
        super().after_train(runner)

    def _log_schedule(self, runner: Runner) -> None:
        phases = None if self.ratio_schedule is None else self.ratio_schedule.phases
        before = runner.message_hub.get_info(SCHEDULE, phases)
        if runner.iter > 0 and before != phases:
            runner.logger.warning(
                f'WAU: ratio_schedule was {before} until here and is {phases} from now on'
            )
        runner.message_hub.update_info(SCHEDULE, phases)
        if self.ratio_schedule is None:
            return
        unit = 'epochs' if self.by_epoch else 'iters'
        total = getattr(runner.train_loop, f'max_{unit}', math.inf)
        for phase in self.ratio_schedule.cut_off(total):
            runner.logger.warning(
                f'WAU: training ends after {total} {unit}, before this phase of ratio_schedule '
                f'comes to its last ratio: {phase}'
            )

    def _logged(self, runner: Runner) -> Iterable[str]:
        names = [*super()._logged(runner), 'active_fraction']
        if runner.optim_wrapper.axis == 'layer':
            names += ['active_filter_fraction', 'active_parameter_fraction']
        if self.ratio_schedule is not None:
            names.append('update_ratio')
        if runner.optim_wrapper.traffic is not None:
            names.append('sent_mb')
        return names

    def _layers(self, runner: Runner, model: nn.Module) -> Iterable[str]:
        return runner.optim_wrapper.layers
