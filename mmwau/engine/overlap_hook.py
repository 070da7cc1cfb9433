"""The filter overlap while a network trains, with WAU or without: logs and pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmwau.core.checks import check_bool
from mmwau.core.slices import Convolution
from mmwau.movement import Movement
from mmwau.overlap import STAGE_OVERLAP, layer_overlap, layer_shape, mean_overlap, random_overlap
from mmwau.targets import DEFAULT_TARGETS, check_targets, find_layers

from .bare_model import bare_model
from .plan import Plan, Planned
from .resume import SCALARS, forget_scalars

# Kept in the message hub, which is part of every checkpoint.
OVERLAP_AT_START = 'overlap_at_start'
OVERLAP_CURVE = 'overlap_curve'
# The key of a checkpoint that holds where filters started.
MOVEMENT = 'movement'
# Log keys.
MOVEMENTS = ('path_length', 'displacement')


@HOOKS.register_module()
class OverlapHook(Planned, Hook):
    """Log the overlap of the filters, and draw it at the end: for a run without WAU.

    :class:`mmwau.WAUHook` does the same by itself, so that a WAU run and its baseline get the
    same curves. The overlap is measured before training, then at an interval, and at the end:

    - ``overlap``: the mean over the measured layers (:func:`mmwau.overlap.layer_overlap`), and
      ``stage_overlap/STAGE`` over those of each stage (``stage_overlap/backbone.layer1``), in the
      log and as scalars of all visualizer backends, with the iteration as step.
    - ``overlap.png`` in the work_dir: the overlap of each layer at the start and at the end,
      beside that of random filters of its shape.
    - ``overlap_curve.png``: network and stages over the iterations.
    - With ``movement=True``, ``train/path_length`` and ``train/displacement`` with the losses: how
      far filters have moved, in radians (:class:`mmwau.movement.Movement`).

    A layer whose filters have no other one to overlap with (depthwise) is left out, and named in
    the log.

    Args:
        overlap_interval: Iterations between two measurements, at least 1.
        targets: Prefixes of module names; the convolutions below them that train are measured,
            see :func:`mmwau.find_layers`.
        movement: Whether to measure how far filters move, after each iteration. It costs a pass
            over their weights each time, memory for two copies of them, and one more copy in
            each checkpoint.

    Raises:
        TypeError: If ``targets`` is not a string or a sequence of strings, or ``movement`` not
            True or False.
        ValueError: If ``overlap_interval`` is below 1.
    """

    def __init__(
        self,
        overlap_interval: int = 500,
        targets: str | Sequence[str] = DEFAULT_TARGETS,
        movement: bool = False,
    ):
        if not isinstance(overlap_interval, int) or overlap_interval < 1:
            raise ValueError(
                'overlap_interval must be an integer of at least 1 (iterations), '
                f'got {overlap_interval!r}'
            )
        self.overlap_interval = overlap_interval
        self.targets = check_targets(targets)
        check_bool('movement', movement)
        self.movement = movement
        self._movement: Movement | None = None
        self._movement_before: dict | None = None

    def check(self, plan: Plan) -> None:
        """Raise if the training is none for this.

        Raises:
            ValueError: If more than one hook measures the overlap.
        """
        alike = [hook.__name__ for hook in plan.hooks if issubclass(hook, OverlapHook)]
        if len(alike) > 1:
            raise ValueError(
                f'custom_hooks has {" and ".join(alike)}, each of which measures the overlap; '
                'keep one of them: with WAU, the WAUHook'
            )

    def before_run(self, runner: Runner) -> None:
        """Forget another run that had this hook; a run that continues keeps its movement."""
        if runner.iter == 0:
            self._movement = self._movement_before = None

    def before_train(self, runner: Runner) -> None:
        """Measure the overlap at the start.

        Raises:
            ValueError: If two hooks measure the overlap, or no layer matches ``targets``.
            ModuleNotFoundError: If Matplotlib is missing, which would be so after training too.
        """
        import mmwau.reporting.plots  # noqa: F401  (mmwau can be imported without it)

        self.check(Plan.of_runner(runner))
        # The layers found at the start are measured throughout, whatever is frozen later.
        model = bare_model(runner.model)
        convolutions = {
            name: cast(Convolution, model.get_submodule(name))
            for name in self._layers(runner, model)
        }
        self._measured = {
            name: module for name, module in convolutions.items() if layer_shape(module)[0] > 1
        }
        alone = [name for name in convolutions if name not in self._measured]
        if alone:
            runner.logger.info(
                'The overlap of these layers is not measured, since each of their filters has an '
                f'input of its own (depthwise): {", ".join(alone)}'
            )
        # A resumed run has these from the run that it goes on with.
        hub = runner.message_hub
        self._curve = [
            {log_key(name): value for name, value in point.items()}
            for point in hub.get_info(OVERLAP_CURVE, [])
        ]
        # What mmwau 0.1 logged under another name would be logged for ever, never changing.
        if 'train/movement' in hub.log_scalars:
            hub.log_scalars['train/path_length'] = hub.log_scalars.pop('train/movement')
        # MMEngine has no public name for the other one.
        others = set(SCALARS).difference(self._logged(runner))
        forget_scalars(others, hub.log_scalars, hub._resumed_keys)
        overlap = self._measure(runner)
        if hub.get_info(OVERLAP_AT_START) is None:
            hub.update_info(OVERLAP_AT_START, overlap)
        if self.movement and self._movement is None and is_main_process():
            self._movement = Movement(convolutions)
            # A run that starts from the weights in a checkpoint starts anew.
            if self._movement_before is not None and runner.iter > 0:
                self._movement.load_state_dict(self._movement_before)
        self._movement_before = None

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Measure the movement, and the overlap at its interval."""
        if self._movement is not None:
            for name, value in zip(MOVEMENTS, self._movement.measure(), strict=True):
                runner.message_hub.update_scalar(f'train/{name}', value)
        if self.every_n_train_iters(runner, self.overlap_interval):
            self._measure(runner, iterations=runner.iter + 1)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what the movement of a resumed run starts from."""
        if self._movement is not None:
            checkpoint[MOVEMENT] = self._movement.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the movement in a checkpoint, in case that the run goes on with it."""
        self._movement_before = checkpoint.get(MOVEMENT)

    def after_train(self, runner: Runner) -> None:
        """Measure the overlap at the end, and draw layers and curves."""
        from mmwau.reporting.plots import plot_overlap, plot_overlap_curve

        end = self._measure(runner)
        if not is_main_process() or not end:
            return
        start = runner.message_hub.get_info(OVERLAP_AT_START)
        # A run that was resumed with other targets has some layers in only one of them.
        start = {name: value for name, value in start.items() if name in end}
        random = {name: random_overlap(module) for name, module in self._measured.items()}
        pictures = []
        if start:
            end = {name: end[name] for name in start}
            pictures.append(Path(runner.work_dir) / 'overlap.png')
            plot_overlap({'start of training': start, 'end of training': end}, random, pictures[-1])
            runner.logger.info(
                f'Filter overlap, mean of {len(end)} layers: '
                f'{mean_overlap(start)["overlap"]:.4f} at the start, '
                f'{mean_overlap(end)["overlap"]:.4f} at the end'
            )
        pictures.append(Path(runner.work_dir) / 'overlap_curve.png')
        expected = sum(random.values()) / len(random)
        plot_overlap_curve(self._curve, expected, pictures[-1])
        runner.logger.info(f'Filter overlap as pictures: {", ".join(map(str, pictures))}')

    def _logged(self, runner: Runner) -> Iterable[str]:
        """Names of what is logged with the losses."""
        return MOVEMENTS if self.movement else ()

    def _layers(self, runner: Runner, model: nn.Module) -> Iterable[str]:
        """Names of the layers to measure."""
        return find_layers(model, self.targets)

    def _measure(self, runner: Runner, iterations: int | None = None) -> dict[str, float]:
        """Measure and log the overlap, in one process; return it by name of the layer."""
        if not is_main_process() or not self._measured:
            return {}
        # On a GPU the CPU waits for each of them, at the interval alone.
        layers = {name: layer_overlap(module) for name, module in self._measured.items()}
        step = runner.iter if iterations is None else iterations
        if not self._curve or self._curve[-1]['step'] < step:
            means = mean_overlap(layers)
            self._curve.append({'step': step, **means})
            runner.message_hub.update_info(OVERLAP_CURVE, self._curve)
            runner.visualizer.add_scalars(means, step=step)
            network, *stages = (f'{name}: {value:.4f}' for name, value in means.items())
            runner.logger.info(f'Filters after {step} iterations: {network}  {"  ".join(stages)}')
        return layers


def log_key(name: str) -> str:
    """The name under which a value is logged, from one that may be of an earlier version.

    Until 0.1 ``overlap``, the network's, was also what the names of stages began with, and the path
    length was called ``movement``.
    """
    if name == 'movement':
        return MOVEMENTS[0]
    stage = name.removeprefix('overlap/')
    return name if stage == name else f'{STAGE_OVERLAP}{stage}'
