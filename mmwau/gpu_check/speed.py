"""The benchmark, and the peak of memory."""

import json
import runpy
import sys
from collections.abc import Sequence
from unittest.mock import patch

import torch
from torch import nn

from mmwau.benchmark.arms import BASELINE
from mmwau.benchmark.memory import extra_memory
from mmwau.benchmark.networks import DETECTOR, Network, build_network

from .bits import small_network
from .ops import why_no_ops
from .part import ROOT, Finding, NotPossibleError, Place

SCRIPT = ROOT / 'tools' / 'benchmark.py'
ARMS = ('weight 0.5', 'filters 0.5', 'layers 0.5')
STEP = 'training step'


def network_for(place: Place) -> Network:
    """ResNet-50 on a GPU, a few convolutions on a CPU."""
    if place.is_gpu:
        return build_network('resnet50', place.device)
    x = torch.randn(2, 3, 16, 16)

    def loss(model: nn.Module) -> torch.Tensor:
        return model(x).square().mean()

    return Network(small_network(place.device), loss, ('',), 'batch 2 at 16x16')


def measure_memory(place: Place) -> Finding:
    """Measure the peak of memory in each arm above that of the baseline."""
    extra = extra_memory(network_for(place), (BASELINE, *ARMS))
    told = (
        f'{arm}: {of_arm["optimizer step"]:+.1f} MiB in the optimizer step '
        f'({of_arm["held slices"]:.2f} of the held slices), {of_arm[STEP]:+.1f} in all'
        for arm, of_arm in extra.items()
        if arm != BASELINE
    )
    return Finding('; '.join(told), extra)


def time_classifier(place: Place) -> Finding:
    """Time training steps of a classifier: ResNet-50 on a GPU, ResNet-20 on a CPU."""
    if place.is_gpu:
        sections = ('networks', 'convolution', 'selection')
        return _time(place, 'resnet50', ARMS, sections)
    return _time(place, 'resnet20_cifar10', ARMS[:1], ('networks',))


def time_detector(place: Place) -> Finding:
    """Time training steps of Faster R-CNN R50-FPN.

    Raises:
        NotPossibleError: If mmcv's ops do not work on the device, or it is a CPU.
    """
    if not place.is_gpu:
        raise NotPossibleError('on a CPU it takes a quarter of an hour: tools/benchmark.py')
    reason = why_no_ops(place.device)
    if reason:
        raise NotPossibleError(reason)
    return _time(place, DETECTOR, ARMS, ('networks', 'optimizer step'))


def _time(place: Place, network: str, arms: Sequence[str], sections: Sequence[str]) -> Finding:
    """Run the benchmark's script, in this process, so that what goes wrong is an error here.

    Raises:
        NotPossibleError: If the script is not there.
    """
    if not SCRIPT.is_file():
        raise NotPossibleError(f'there is no {SCRIPT}: it is in a clone of the repository')
    options = ['--quick', '--device', str(place.device), '--networks', network, '--arms', *arms]
    options += ['--threads', str(torch.get_num_threads())]
    options += ['--sections', *sections, '--work-dir', str(place.folder)]
    with patch.object(sys, 'argv', [str(SCRIPT), *options]):
        runpy.run_path(str(SCRIPT), run_name='__main__')
    results = json.loads((place.folder / 'benchmark.json').read_text())
    of_network = results['networks'][network]
    (table,) = of_network['steps'].values()
    operations = of_network['operations']
    of_baseline = sum(operations[BASELINE].values())
    told = []
    for arm in arms:
        median, low, high = table[arm]['ratios'][STEP]
        more = sum(operations[arm].values()) - of_baseline
        told.append(f'{arm}: {median:.3f} ({low:.3f} to {high:.3f}), {more:+} operations')
    step = f'{1000 * table[BASELINE]["seconds"][STEP]:.1f} ms'
    return Finding(f'step of {network} {step}, ratios {"; ".join(told)}', results)
