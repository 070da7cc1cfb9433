"""What is known of a training before it begins, and the base of what is checked against it."""

from collections.abc import Iterator
from typing import NamedTuple

from mmengine.config import Config
from mmengine.registry import HOOKS, LOOPS, OPTIM_WRAPPERS, RUNNERS, Registry
from mmengine.runner import IterBasedTrainLoop, Runner

from mmwau.core.sharding import SETTINGS

from .type_names import type_name


class Plan(NamedTuple):
    """A training, as its config or its runner describes it."""

    wrapper: type | None  # of the optimizer; None if a config has one that is not registered
    wrapper_name: str
    hold: str | None  # what its held slices keep; None without WAU
    hooks: list[type]
    counts_iterations: bool  # and nothing else: the epoch is always 0
    max_epochs: int | None  # None if it is not known
    runner: str  # name of the class; 'Runner' of those derived from MMEngine's too
    # The part of a config that cuts parameters over processes, by name, or None. (Of a runner see
    # the model: mmwau.core.sharding.refuse_sharded.)
    sharding: str | None = None

    @classmethod
    def of_config(cls, cfg: Config) -> 'Plan':
        """Read the plan in a config."""
        wrapper, loop = cfg.get('optim_wrapper') or {}, cfg.get('train_cfg') or {}
        kind = wrapper.get('type') or 'OptimWrapper'
        loop_kind = class_of(loop.get('type'), LOOPS)
        parts = [_name(cfg.get(part)) for part in ('strategy', 'model_wrapper_cfg')]
        return cls(
            wrapper=class_of(kind, OPTIM_WRAPPERS),
            wrapper_name=type_name(kind),
            hold=wrapper.get('hold', 'weight'),
            hooks=[hook for hook, _ in hooks_of(cfg)],
            counts_iterations=loop.get('by_epoch') is False
            or (loop_kind is not None and issubclass(loop_kind, IterBasedTrainLoop)),
            max_epochs=loop.get('max_epochs'),
            runner=_runner_name(class_of(cfg.get('runner_type'), RUNNERS)),
            sharding=next((name for name in parts if name in SETTINGS), None),
        )

    @classmethod
    def of_runner(cls, runner: Runner) -> 'Plan':
        """Read the plan off a runner that is about to train."""
        wrapper, loop = runner.optim_wrapper, runner.train_loop
        return cls(
            wrapper=type(wrapper),
            wrapper_name=type(wrapper).__name__,
            hold=wrapper.wau.hold if hasattr(wrapper, 'wau') else None,
            hooks=[type(hook) for hook in runner.hooks],
            counts_iterations=isinstance(loop, IterBasedTrainLoop),
            max_epochs=getattr(loop, 'max_epochs', None),
            runner=_runner_name(type(runner)),
        )


class Planned:
    """Base of hooks and optimizer wrappers that tell from a config alone whether they can work."""

    @classmethod
    def check_config(cls, settings: dict, plan: Plan) -> None:
        """Raise if a part of a config can't be built, or does not go with the rest.

        Args:
            settings: The arguments that the config has for it.
            plan: What the config says of the training.

        Raises:
            TypeError: If an argument has the wrong type, or other parts don't go with it.
            ValueError: The same of values.
        """
        cls(**settings).check(plan)

    def check(self, plan: Plan) -> None:
        """Raise if the training is none for this."""


def hooks_of(cfg: Config) -> Iterator[tuple[type, dict]]:
    """The custom hooks of a config whose class is known, each with its part of the config."""
    for hook in cfg.get('custom_hooks') or []:
        if isinstance(hook, dict) and (kind := class_of(hook.get('type'), HOOKS)) is not None:
            yield kind, hook


def class_of(name_or_class: str | type | None, registry: Registry) -> type | None:
    """The class that a config names or has; None if it is not known."""
    kind = registry.get(name_or_class) if isinstance(name_or_class, str) else name_or_class
    return kind if isinstance(kind, type) else None


def _runner_name(kind: type | None) -> str:
    return 'Runner' if kind is None or issubclass(kind, Runner) else kind.__name__


def _name(part: dict | str | type | None) -> str:
    """Name of the type that a part of a config has, or is; '' for None."""
    return type_name(part.get('type') if isinstance(part, dict) else part)
