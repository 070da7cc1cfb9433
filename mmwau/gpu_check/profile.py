"""Whether the CPU does WAU's part of a training step while the GPU works."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mmwau.benchmark.arms import BASELINE, BenchmarkTrainer
from mmwau.benchmark.parts import watched_parts

from .part import Finding, Place
from .speed import ARMS, network_for

MARK, STEP = 'WAU: ', 'WAU training step'
STEPS, WARM_UP = 5, 3
ON_GPU = ('kernel', 'gpu_memcpy', 'gpu_memset')
WAITS = ('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize')
# The start and the end of something, in microseconds.
Span = tuple[float, float]


def profile_steps(place: Place) -> Finding:
    """Profile training steps of each arm; the traces stay in the folder.

    Raises:
        AssertionError: If the CPU waits for the GPU in a part of WAU.
    """
    network = network_for(place)
    values = {}
    for arm in (BASELINE, *ARMS):
        trace = place.folder / f'{arm.replace(" ", "-")}.json.gz'
        _profile(BenchmarkTrainer(arm, network), trace, place.is_gpu)
        values[arm] = read_trace(json.loads(gzip.decompress(trace.read_bytes()))['traceEvents'])
    waiting = {arm: found['waits'] for arm, found in values.items() if found['waits']}
    if waiting:
        raise AssertionError(f'the CPU waits for the GPU in parts of WAU: {waiting}')
    told = '; '.join(f'{arm}: {_tell(found)}' for arm, found in values.items())
    return Finding(told if place.is_gpu else f'{told} (a CPU has no GPU beside it)', values)


def _tell(found: Mapping[str, float]) -> str:
    """What was found of an arm in words."""
    told = f'{found["step ms"]:.2f} ms a step'
    if found['kernels']:
        told += f', the GPU works in {found["busy"]:.0%} of it'
    if found['parts ms']:
        told += f', WAU takes {found["parts ms"]:.2f} ms of the CPU'
        told += f', {found["overlapped"]:.0%} of it meanwhile' if found['kernels'] else ''
    return told


def _profile(trainer: BenchmarkTrainer, path: Path, on_gpu: bool) -> None:
    """Write the trace of some steps, between which nobody waits for the GPU."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]

    def step() -> None:
        with trainer.wrapper.optim_context(trainer.model):
            loss = trainer.loss(trainer.model)
        trainer.wrapper.update_params(loss)

    for _ in range(WARM_UP):
        step()
    with watched_parts(_mark), profile(activities=activities) as trace, record_function(STEP):
        for _ in range(STEPS):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    trace.export_chrome_trace(str(path))


@contextmanager
def _mark(part: str) -> Iterator[None]:
    """Mark a part of WAU in the trace."""
    with record_function(f'{MARK}{part}'):
        yield


def read_trace(events: Iterable[Mapping]) -> dict[str, float]:
    """Find in a trace what the CPU and the GPU do at the same time.

    Args:
        events: Those of a trace of :data:`STEPS` steps, in the format of Chrome.

    Returns:
        ``'step ms'``: milliseconds of a step. ``'parts ms'``: those of the CPU in parts of WAU.
        ``'busy'``: fraction of the steps in which the GPU works. ``'overlapped'``: fraction of the
        parts in which it does. ``'kernels'``: what the GPU did in a step. ``'waits'``: how often
        the CPU waited for it inside of a part.
    """
    spans: dict[str, list[Span]] = {'step': [], 'parts': [], 'gpu': [], 'waits': []}
    for event in events:
        name, kind = event.get('name', ''), event.get('cat')
        is_what = dict(
            gpu=kind in ON_GPU,
            waits=name in WAITS,
            step=(name, kind) == (STEP, 'user_annotation'),
            parts=name.startswith(MARK) and kind == 'user_annotation',
        )
        for what in [what for what, is_it in is_what.items() if is_it and 'dur' in event]:
            spans[what].append((event['ts'], event['ts'] + event['dur']))
    parts, gpu = union(spans['parts']), union(spans['gpu'])
    whole, of_parts = length(spans['step']), length(parts)
    return {
        'step ms': whole / STEPS / 1000,
        'parts ms': of_parts / STEPS / 1000,
        'busy': length(common(spans['step'], gpu)) / whole,
        'overlapped': length(common(parts, gpu)) / of_parts if of_parts else 0.0,
        'kernels': len(spans['gpu']) / STEPS,
        'waits': len(common(parts, spans['waits'])),
    }


def union(spans: Iterable[Span]) -> list[Span]:
    """The times that are in any of the spans, as spans that do not meet, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def common(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The times that are in both, of spans that do not meet among themselves."""
    pairs = ((max(a, c), min(b, d)) for a, b in spans for c, d in others)
    return [(start, end) for start, end in pairs if start < end]


def length(spans: Iterable[Span]) -> float:
    """The sum of the spans' lengths."""
    return sum(end - start for start, end in spans)
