"""Measure what WAU costs and saves beside training without it.

All arms run in one process, one after the other in each round and in random order. Ratios are taken
within a round; medians and quartiles over the rounds are shown. Absolute times are for orientation:
those of two machines, or of two moments, can't be compared.
"""

import argparse
import logging
import platform
import warnings
from collections.abc import Callable
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from mmwau.benchmark import busy, growth, measure, report
from mmwau.benchmark.arms import ARMS
from mmwau.benchmark.bytes_sent import bytes_sent
from mmwau.benchmark.networks import CIFAR, NETWORKS, build_network
from mmwau.files.whole import check_folder
from mmwau.reporting.terminal import task_name, text_console

# The quick run asks only what the table of targets needs.
QUICK_ARMS = ('baseline', 'weight', 'state, skipping')
SECTIONS = (
    'convolution',
    'selection',
    'optimizer step',
    'memory',
    'bytes sent',
    'networks',
    'growth',
    'busy machine',
)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='few rounds, in about 2 minutes')
    options = {
        '--networks': (NETWORKS, 'all; quick: without those of CIFAR'),
        '--sections': (SECTIONS, 'all but the busy machine'),
    }
    for option, (names, default) in options.items():
        listed = f'of {", ".join(names)} (default: {default})'
        parser.add_argument(option, nargs='+', choices=names, metavar='NAME', help=listed)
    parser.add_argument('--rounds', type=int, help='rounds that count (default: 15, quick: 2)')
    parser.add_argument('--update-ratio', type=float, default=0.5, help='default: 0.5')
    parser.add_argument('--axis', default='out', choices=['out', 'in'], help='default: out')
    parser.add_argument('--device', default='cpu', help='cpu (default) or cuda')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/benchmark'),
                        help='folder for benchmark.json and benchmark.png')  # fmt: skip
    args = parser.parse_args()
    if not 0 < args.update_ratio < 1:
        parser.error(
            f'--update-ratio must be in (0, 1), got {args.update_ratio}: at 1 nothing is held, and '
            'all arms equal the baseline'
        )
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: PyTorch finds no GPU here')
    # Left out of all sections in silence, but an error where one asks for them.
    left_out = {}
    if args.quick:
        left_out['growth'] = '--quick does not measure it'
    if args.device != 'cpu':
        left_out['memory'] = 'it is measured with --device cpu'
    for section in args.sections or ():
        if section in left_out:
            parser.error(f'--sections {section}: {left_out[section]}')
    wanted = args.sections or [section for section in SECTIONS if section != 'busy machine']
    args.sections = [section for section in wanted if section not in left_out]
    if args.networks is not None and 'networks' not in args.sections:
        parser.error('--networks chooses among those of the section networks, which --sections '
                     'leaves out')  # fmt: skip
    if args.networks is None:
        args.networks = [name for name in NETWORKS if not (args.quick and name in CIFAR)]
    args.rounds = args.rounds or (2 if args.quick else 15)
    if args.rounds < 2:
        parser.error(f'--rounds must be at least 2, got {args.rounds}: a spread needs two')
    return args


class Sections:
    """Runs one measurement after another, each with a progress bar and its time left."""

    def __init__(self, console: Console):
        self.console = console

    def run(self, title: str, runs: int, measure_it: Callable[[Callable[[], None]], object]):
        """Run a measurement that ticks so many times."""
        columns = task_name(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(title, total=runs)
            found = measure_it(lambda: progress.advance(task))
            progress.update(task, completed=runs)
        return found


def measure_networks(args: argparse.Namespace, sections: Sections) -> dict[str, dict]:
    """Measure the training steps of all networks that were asked for."""
    found = {}
    ratios = [args.update_ratio] if args.update_ratio != 0.5 else [0.5, 0.25]
    for name in args.networks:
        network = build_network(name, torch.device(args.device))
        for ratio in ratios if name == 'resnet50' else ratios[:1]:
            arms = QUICK_ARMS if args.quick else ARMS
            runs = len(arms) * (args.rounds + measure.WARM_UP)
            times = sections.run(
                f'training step, {name}, {network.data}, ratio {ratio}', runs,
                lambda tick, n=network, r=ratio, a=arms: measure.time_training(
                    n, a, r, args.axis, args.rounds, tick),
            )  # fmt: skip
            found[f'{name} {ratio}'] = dict(
                name=name, data=network.data, update_ratio=ratio, arms=times,
                ceiling=measure.held_gradient_share(network, ratio, min(3, args.rounds - 1)),
            )  # fmt: skip
    return found


def main() -> None:
    """Measure, then print the tables and write the JSON file and the picture."""
    args = parse_args()
    check_folder(args.work_dir)
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    device = torch.device(args.device)
    console = text_console(width=120)
    sections = Sections(console)
    results = dict(
        machine=dict(
            device=torch.cuda.get_device_name() if device.type == 'cuda' else platform.machine(),
            threads=torch.get_num_threads(), torch=torch.__version__, system=platform.system(),
        ),
        arguments={**vars(args), 'work_dir': str(args.work_dir)},
    )  # fmt: skip
    more = args.rounds if args.quick else 2 * args.rounds
    wanted = args.sections
    if 'convolution' in wanted:
        runs = 2 * (more + measure.WARM_UP)
        results['convolution'] = sections.run(
            'backward of 3x3 convolutions', 3 * runs,
            lambda tick: {
                channels: measure.time_convolution(
                    channels, more, tick, ratio=args.update_ratio, axis=args.axis,
                    size=3584 // channels, device=args.device)  # the sizes of ResNet-50 at 224x224
                for channels in (128, 256, 512)
            },
        )  # fmt: skip
    if 'selection' in wanted:
        results['selection'] = sections.run(
            'selection, 100,000 filters in 1,000 layers', 2 * (more + measure.WARM_UP),
            lambda tick: measure.time_selection(1000, 100, 900, more, tick),
        )  # fmt: skip
    if 'optimizer step' in wanted:
        arms = ('baseline', 'weight', 'state', 'naive loop')
        results['optimizer step'] = sections.run(
            'optimizer step, R50-FPN', len(arms) * (more + measure.WARM_UP),
            lambda tick: measure.time_optimizer_steps(
                build_network('faster_rcnn_r50_fpn', device), arms, args.update_ratio, more, tick),
        )  # fmt: skip
    if 'memory' in wanted:
        arms = ('baseline', 'weight', 'state', 'state, skipping')
        results['memory'] = sections.run(
            'memory, ResNet-50', 1,
            lambda tick: measure.extra_memory(
                build_network('resnet50', device), arms, args.update_ratio),
        )  # fmt: skip
    if 'bytes sent' in wanted:
        results['bytes sent'] = sections.run(
            'bytes sent, ResNet-50, 2 processes', 1,
            lambda tick: bytes_sent(
                build_network('resnet50', torch.device('cpu')).model, 64, args.update_ratio),
        )  # fmt: skip
    if 'networks' in wanted:
        results['networks'] = measure_networks(args, sections)
    if 'growth' in wanted:
        runs = measure.WARM_UP + args.rounds
        results['growth'] = {
            'width': sections.run(
                'by width', 2 * len(growth.WIDTHS) * 2 * runs,
                lambda tick: growth.by_width(args.rounds, tick, args.device)),
            'ratio': sections.run(
                'by ratio', 2 * len(growth.RATIOS) * 2 * runs,
                lambda tick: growth.by_ratio(args.rounds, tick, args.device)),
            'layers': sections.run(
                'by layers', len(growth.LAYERS) * len(growth.STEPS) * runs,
                lambda tick: growth.by_layers(args.rounds, tick, args.device)),
        }  # fmt: skip
    if 'busy machine' in wanted:
        runs = args.rounds * len(busy.BUSY) * len(busy.SPIN_COUNTS)
        results['busy machine'] = sections.run(
            'training step beside busy processes', runs,
            lambda tick: busy.time_beside_busy_processes(args.rounds, tick),
        )  # fmt: skip
    # First of all, so that nothing that goes wrong later loses what was measured.
    args.work_dir.mkdir(parents=True, exist_ok=True)
    report.write_json(results, args.work_dir / 'benchmark.json')
    report.print_tables(results, console)
    console.print(f'Everything measured: {args.work_dir / "benchmark.json"}', soft_wrap=True)
    if results.get('networks'):
        report.draw(results, args.work_dir / 'benchmark.png')
        console.print(f'Picture: {args.work_dir / "benchmark.png"}', soft_wrap=True)


if __name__ == '__main__':
    main()
