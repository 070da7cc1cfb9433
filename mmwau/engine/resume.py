"""What a training goes on with after a resume: the seed, the number of updates, the options."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping

import torch
from mmengine.dist import broadcast_object_list
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from mmwau.training.messages import Message, about_changes

OPTIONS = 'wau_options'
# What hooks of mmwau may log with the losses.
FRACTIONS = ('active_fraction', 'active_filter_fraction', 'active_parameter_fraction')
SCALARS = (*FRACTIONS, 'update_ratio', 'sent_mb', 'path_length', 'displacement')


def is_resumed(runner: Runner) -> bool:
    """Whether a run goes on with a checkpoint, and not only starts from the weights in one."""
    # MMEngine has no public name for it.
    return runner._resume


def find_seed(given: int | None, loaded: Mapping) -> int:
    """Find the seed of the selections, the same in all processes.

    Args:
        given: A seed that was asked for: in the config, or of the Runner.
        loaded: WAU's entry in the checkpoint, or empty.

    Returns:
        The first process's, since each may have its own, as with ``diff_rank_seed``, and its own
        is in the checkpoints. Where none is given: that of the checkpoint, or torch's.
    """
    seed = loaded.get('seed', torch.initial_seed()) if given is None else given
    seeds = [int(seed)]
    broadcast_object_list(seeds)
    return seeds[0]


def find_index(loaded: Mapping, before: int | None, iterations: int, accumulative: int) -> int:
    """Find the number of the updates that were made before.

    Args:
        loaded: WAU's entry in the checkpoint, or empty.
        before: Those of this wrapper in a training that goes on, or None.
        iterations: Iterations that were made before.
        accumulative: Iterations in an update.
    """
    if 'updates' in loaded:
        return loaded['updates']
    return before if before is not None and iterations > 0 else iterations // accumulative


def keep_options(hub: MessageHub, options: Mapping, resumed: bool) -> Iterator[Message]:
    """Keep WAU's options in the message hub, which is part of every checkpoint.

    Returns:
        What changed since the checkpoint that training resumes from, if it does.
    """
    before = hub.get_info(OPTIONS)
    hub.update_info(OPTIONS, options)
    return about_changes(before, options) if resumed else iter(())


def forget_scalars(names: Iterable[str], *parts: MutableMapping) -> None:
    """Forget what hooks of mmwau logged, and don't log any more.

    MMEngine logs the last value of all that was ever logged, to the end.

    Args:
        names: Some of :data:`SCALARS`.
        *parts: Parts of a message hub that have entries by the name of what is logged.
    """
    for name in names:
        for part in parts:
            part.pop(f'train/{name}', None)
