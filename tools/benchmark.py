"""Measure what WAU costs and saves beside training without it.

How it does so: docs/speed.md. Absolute times are for orientation: those of two machines, or of two
moments, can't be compared.
"""

import argparse
import json
import logging
import platform
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

import torch
from rich.console import Console

from mmwau.benchmark import picture, report
from mmwau.benchmark.arms import ARMS, BASELINE, STEP_ARMS
from mmwau.benchmark.networks import DETECTOR, NETWORKS
from mmwau.benchmark.rounds import FEWEST, Effort
from mmwau.benchmark.sections import SECTIONS, Bench
from mmwau.benchmark.steps import threads
from mmwau.files.whole import check_folder, write_whole
from mmwau.reporting.terminal import progress_bar, text_console

# The quick run asks only what the table of targets needs.
QUICK_ARMS = (BASELINE, 'weight 0.5', 'filters 0.5')
QUICK_NETWORKS = ('resnet50', DETECTOR)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--quick', action='store_true', help='few rounds, in about 3 minutes')
    options = {
        ('--networks', '--network'): (NETWORKS, f'all; quick: {" and ".join(QUICK_NETWORKS)}'),
        ('--arms',): (ARMS, 'all but the last two; the baseline always takes part'),
        ('--sections',): (SECTIONS, 'all but the busy machine'),
    }
    for names, (choices, default) in options.items():
        listed = f'of {", ".join(choices)} (default: {default})'
        add(*names, nargs='+', choices=list(choices), metavar='NAME', help=listed)
    threads = 'for the steps of networks (default: all cores, then 1; quick: all)'
    add('--threads', type=int, nargs='+', metavar='N', help=threads)
    add('--rounds', type=int, help=f'fewest rounds that count (default: 15, quick: {FEWEST})')
    most = 'most rounds of training steps (default: 200, quick: those of --rounds)'
    add('--max-rounds', type=int, help=most)
    longest = 'no more rounds than the fewest for one network and number of threads after so long'
    add('--minutes', type=float, default=10, help=f'{longest} (default: 10)')
    add('--device', default='cpu', help='cpu (default) or cuda')
    place, results = Path('work_dirs/benchmark'), 'folder for benchmark.json and benchmark.png'
    add('--work-dir', type=Path, default=place, help=results)
    args = parser.parse_args()
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device}: PyTorch finds no GPU here')
    _choose_sections(args, parser.error)
    _choose_effort(args, parser.error)
    return args


def _choose_sections(args: argparse.Namespace, error: Callable[[str], None]) -> None:
    # Left out of all sections in silence, but an error where one asks for them.
    left_out = {}
    if args.quick:
        left_out['growth'] = '--quick does not measure it'
    for section in args.sections or ():
        if section in left_out:
            error(f'--sections {section}: {left_out[section]}')
    wanted = args.sections or [section for section in SECTIONS if section != 'busy machine']
    args.sections = [section for section in wanted if section not in left_out]
    for option in ('networks', 'arms', 'threads'):
        if getattr(args, option) is not None and 'networks' not in args.sections:
            error(
                f'--{option} chooses among those of the section networks, which --sections '
                'leaves out'
            )
    args.networks = args.networks or list(QUICK_NETWORKS if args.quick else NETWORKS)
    arms = args.arms or (QUICK_ARMS if args.quick else STEP_ARMS)
    args.arms = list(dict.fromkeys([BASELINE, *arms]))


def _choose_effort(args: argparse.Namespace, error: Callable[[str], None]) -> None:
    if args.rounds is None:
        args.rounds = FEWEST if args.quick else 15
    # Beside busy processes medians are shown without intervals.
    if args.rounds < FEWEST and args.sections != ['busy machine']:
        error(
            f'--rounds must be at least {FEWEST}, got {args.rounds}: fewer have no interval of 95 %'
        )
    if args.rounds < 1:
        error(f'--rounds must be at least 1, got {args.rounds}')
    if args.max_rounds is None:
        args.max_rounds = args.rounds if args.quick else max(200, args.rounds)
    if args.max_rounds < args.rounds:
        error(f'--max-rounds must be at least --rounds, {args.rounds}, got {args.max_rounds}')
    if not args.minutes >= 0:
        error(f'--minutes must be at least 0, got {args.minutes}')
    every = torch.get_num_threads()
    if args.threads is None:
        args.threads = [every] if args.quick or args.device != 'cpu' else [every, 1]
    if min(args.threads) < 1:
        error(f'--threads must be at least 1, got {min(args.threads)}')
    args.threads = list(dict.fromkeys(args.threads))


def watch(console: Console, title: str, runs: int, measure: Callable) -> object:
    """Run a measurement with a progress bar and its time left; see ``Bench.watch``."""
    # Drawn between the runs alone: a thread that draws would count in CPU time.
    with progress_bar(console, auto_refresh=False) as progress:
        task = progress.add_task(title, total=runs)
        found = measure(lambda: progress.update(task, advance=1, refresh=True))
        progress.update(task, completed=runs)
    return found


def main() -> None:
    """Measure, then print the tables and write the JSON file and the picture."""
    args = parse_args()
    check_folder(args.work_dir)
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    device = torch.device(args.device)
    console = text_console()
    bench = Bench(
        device=device,
        networks=args.networks,
        arms=args.arms,
        threads=args.threads,
        effort=Effort(args.rounds, args.max_rounds, 60 * args.minutes),
        of_operations=args.rounds if args.quick else 2 * args.rounds,
        watch=partial(watch, console),
    )
    name = torch.cuda.get_device_name() if device.type == 'cuda' else platform.machine()
    machine = dict(device=name, threads=args.threads[0], torch=torch.__version__)
    machine['system'] = platform.system()
    results = dict(machine=machine, arguments={**vars(args), 'work_dir': str(args.work_dir)})
    with threads(args.threads[0]):
        results.update({section: SECTIONS[section](bench) for section in args.sections})
    # First of all, so that nothing that goes wrong later loses what was measured.
    write_whole(json.dumps(results, indent=1).encode(), args.work_dir / 'benchmark.json')
    report.print_tables(results, console)
    console.print(f'Everything measured: {args.work_dir / "benchmark.json"}', soft_wrap=True)
    if results.get('networks'):
        picture.draw(results, args.work_dir / 'benchmark.png')
        console.print(f'Picture: {args.work_dir / "benchmark.png"}', soft_wrap=True)


if __name__ == '__main__':
    main()
