"""How many operations a training step is made of: a GPU is given each of them by the CPU.

On a GPU small operations cost what it takes to launch them. On a CPU all are counted, also those
that draw the selection and make indices, which a GPU is not given.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from .arms import BASELINE, BenchmarkTrainer
from .networks import Network
from .rounds import WARM_UP, Progress

STEP, REST = 'optimizer step', 'forward and backward'
# They take memory and do nothing with it.
ALLOCATIONS = ('empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided')


def is_work(operation: OpOverload) -> bool:
    """Whether an operation computes or copies anything: it is no view, and no memory alone."""
    name = operation.overloadpacket.__name__
    return not operation.is_view and name not in ALLOCATIONS


class OperationCounter(TorchDispatchMode):
    """Counts the operations on a device that are made inside, and work.

    Args:
        device: The device.

    Attributes:
        count: Those so far.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.count = device, 0

    def __torch_dispatch__(
        self,
        operation: OpOverload,
        types: Sequence[type],
        args: Sequence = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Make an operation."""
        result = operation(*args, **(kwargs or {}))
        of_both, _ = tree_flatten((args, kwargs, result))
        is_here = any(isinstance(one, Tensor) and one.device == self.device for one in of_both)
        self.count += is_here and is_work(operation)
        return result


def count_operations(
    network: Network, arms: Sequence[str], tick: Progress = lambda: None
) -> dict[str, dict[str, int]]:
    """Count the operations of a training step in each arm.

    The step is one in which nothing is drawn: a selection is drawn for eight updates at once.

    Args:
        network: The network.
        arms: Names of the arms.
        tick: Called after each arm, to show progress.

    Returns:
        For each arm the number of operations of its :data:`STEP`, with what WAU does around it,
        and of the :data:`REST`.
    """
    counts = {}
    for arm in arms:
        trainer = BenchmarkTrainer(arm, network)
        for _ in range(WARM_UP):
            trainer.step()
        with OperationCounter(trainer.device) as every, _counted_step(trainer) as of_step:
            trainer.step()
        counts[arm] = {REST: every.count - of_step.count, STEP: of_step.count}
        tick()
    return counts


@contextmanager
def _counted_step(trainer: BenchmarkTrainer) -> Iterator[OperationCounter]:
    """Count what the wrapper's step does."""
    counter, step = OperationCounter(trainer.device), trainer.wrapper.step

    def counted_step(**kwargs: Any) -> None:
        with counter:
            step(**kwargs)

    trainer.wrapper.step = counted_step
    try:
        yield counter
    finally:
        del trainer.wrapper.step


def rows_of(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, ...]]:
    """Rows of a table: the arm, its operations by part, all, and how many more than the baseline's.

    Args:
        counts: What :func:`count_operations` returned; the baseline is one of the arms.
    """
    baseline = sum(counts[BASELINE].values())
    rows: list[tuple[str, ...]] = []
    for arm, parts in counts.items():
        every = sum(parts.values())
        more = '' if arm == BASELINE else f'{every - baseline:+}'
        rows.append((arm, str(parts[REST]), str(parts[STEP]), str(every), more))
    return rows
