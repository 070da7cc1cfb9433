"""The peak of memory in a training step."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mmwau import find_layers

from .arms import ARMS, BASELINE, BenchmarkTrainer
from .networks import Network
from .rounds import WARM_UP, Progress

STEP = 'WAU optimizer step'
MIB = 2**20


def extra_memory(
    network: Network, arms: Sequence[str], tick: Progress = lambda: None
) -> dict[str, dict[str, float | None]]:
    """Measure the peak of memory in the optimizer step, and in the whole training step.

    The baseline is one of the arms.

    Returns:
        For each arm, by ``'optimizer step'`` and ``'training step'``, by how many MiB its peak is
        above that of the baseline; and ``'held slices'``: the first of these in multiples of the
        held slices' weights, or None where WAU takes no part.
    """
    layers = find_layers(network.model, network.targets).values()
    weights = [layer.tensors[0][0] for layer in layers]
    all_weights = sum(weight.numel() * weight.element_size() for weight in weights)
    peaks = {}
    for arm in arms:
        peaks[arm] = _peak_memory(BenchmarkTrainer(arm, network))
        tick()
    extra: dict[str, dict[str, float | None]] = {}
    for arm, of_arm in peaks.items():
        above = {phase: peak - peaks[BASELINE][phase] for phase, peak in of_arm.items()}
        ratio = ARMS[arm].update_ratio
        extra[arm] = {phase: size / MIB for phase, size in above.items()}
        extra[arm]['held slices'] = ratio and above['optimizer step'] / (1 - ratio) / all_weights
    return extra


def _peak_memory(trainer: BenchmarkTrainer) -> dict[str, int]:
    """Bytes at the peak of the optimizer step and of the whole step, above those before it."""
    for _ in range(WARM_UP):
        trainer.step()
    measure = _peak_on_gpu if trainer.device.type == 'cuda' else _peak_on_cpu
    return measure(trainer)


def _peak_on_gpu(trainer: BenchmarkTrainer) -> dict[str, int]:
    wrapper, step, device = trainer.wrapper, trainer.wrapper.step, trainer.device
    peaks = {}

    def measured_step() -> None:
        peaks['training step'] = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        peaks['optimizer step'] = torch.cuda.max_memory_allocated(device)

    wrapper.step = measured_step
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    with wrapper.optim_context(trainer.model):
        loss = trainer.loss(trainer.model)
    wrapper.update_params(loss)
    del wrapper.step
    peaks['training step'] = max(peaks.values())
    return {phase: peak - before for phase, peak in peaks.items()}


def _peak_on_cpu(trainer: BenchmarkTrainer) -> dict[str, int]:
    wrapper = trainer.wrapper
    wrapper.step = record_function(STEP)(wrapper.step)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        with wrapper.optim_context(trainer.model):
            loss = trainer.loss(trainer.model)
        wrapper.update_params(loss)
        del loss
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'trace.json'
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    found = [event for event in events if event.get('name') == '[memory]']
    levels = [(event['ts'], event['args']['Total Allocated']) for event in found]
    mark = STEP, 'user_annotation'
    (step,) = [event for event in events if (event.get('name'), event.get('cat')) == mark]
    before = min(levels)[1]
    return {
        'optimizer step': max(level for time, level in levels if time >= step['ts']) - before,
        'training step': max(level for _, level in levels) - before,
    }
