"""The results of the benchmark: tables in the terminal."""

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Column, Table

from . import launches
from .arms import ARMS, BASELINE, PROCESSOR, WALL
from .busy import SPIN_COUNTS, rows_of
from .networks import DETECTOR
from .parts import PARTS
from .rounds import Ratio

Row = tuple[str, str, str, bool]
# Limits of the ratio of a training step, by network and arm.
STEP_LIMITS = {
    'resnet50': {
        'layers 0.5': 0.83,
        'layers 0.25': 0.76,
        'filters 0.5': 0.91,
        'filters 0.25': 0.83,
    },
    'resnet18': {'layers 0.5': 0.80, 'layers 0.25': 0.73},
    'wrn28_10_cifar10': {'layers 0.5': 0.82, 'layers 0.25': 0.70},
    'densenet40_k12_bc_cifar10': {'layers 0.5': 0.86, 'layers 0.25': 0.86},
    'mobilenet_v2': {'layers 0.5': 0.88, 'layers 0.25': 0.85},
    'resnet20_cifar10': {'layers 0.5': 0.90, 'layers 0.25': 0.87},
}
# Limits of the parts of hold='weight', as a fraction of the baseline's step.
PARTS_LIMITS = {'resnet50': 0.007, 'resnet20_cifar10': 0.02}
# The part of the held layers' weight gradients that a detector's step has to save.
SAVED_LIMITS = {(DETECTOR, 'filters 0.5'): 0.8, (DETECTOR, 'layers 0.5'): 0.9}
# Held slices once, twice, once, not at all; and their indices.
MEMORY_LIMITS = {'weight 0.5': 1.02, 'state 0.5': 2.02, 'filters 0.5': 1.02, 'layers 0.5': 0.02}


def targets_met(results: Mapping) -> list[Row]:
    """The rows of the table of targets: what, target, measured, and whether it is met.

    Of the sections of ``tools/benchmark.py`` some may be missing.
    """
    rows: list[Row] = []

    def at_most(what: str, limit: float, ratio: Ratio) -> None:
        rows.append((what, f'≤ {limit:.2f}', show(ratio), ratio.median <= limit))

    for channels, ratio in results.get('convolution', {}).items():
        at_most(f'backward of a 3x3 convolution, {channels} channels, skipping', 0.78, ratio)
    for network in results.get('networks', {}).values():
        rows += _targets_of_network(network)
    if 'optimizer step' in results:
        steps = {arm: row['ratios'] for arm, row in results['optimizer step'].items()}
        weight = steps['weight 0.5']['optimizer step']
        at_most("optimizer step only, R50-FPN, hold='weight'", 1.30, weight)
        share = (weight.median - 1) / (steps["authors' loop"]['optimizer step'].median - 1)
        what = "its extra time, of that of the authors' loop"
        rows.append((what, '≤ 50 %', f'{share:.0%}', share <= 0.5))
    if 'selection' in results:
        share = results['selection']
        what = 'selection of 100,000 filters in 1,000 layers, of an SGD step'
        rows.append((what, '≤ 5 %', show_percent(share), share.median <= 0.05))
    if 'memory' in results:
        for arm, limit in MEMORY_LIMITS.items():
            extra = results['memory'][arm]['held slices']
            what = f'extra memory in the step, ResNet-50, {arm}, in held slices'
            rows.append((what, f'≤ {limit}', f'{extra:.2f}', extra <= limit))
    if 'bytes sent' in results:
        sent = results['bytes sent']
        wire = f', on the wire in all {sent["wire"]:.3f}' if 'wire' in sent else ''
        measured = f'{sent["held layers"]:.3f}{wire}'
        what = 'gradient bytes of held layers, 2 processes'
        rows.append((what, '≤ 0.52', measured, sent['held layers'] <= 0.52))
    return rows


def _targets_of_network(network: Mapping) -> Iterator[Row]:
    name = network['name']
    table = first_steps(network)
    for arm, row in table.items():
        ratio = row['ratios'][WALL]
        limit = STEP_LIMITS.get(name, {}).get(arm)
        if limit:
            what = f'training step, {name}, {arm}'
            yield what, f'≤ {limit:.2f}', show(ratio), ratio.median <= limit
        limit = SAVED_LIMITS.get((name, arm))
        if limit:
            part = saved(network, arm, ratio)
            what = f"saved of the held layers' weight gradients, {name}, {arm}"
            yield what, f'≥ {100 * limit:.0f} %', f'{part:.0%}  (step {show(ratio)})', part >= limit
    for arm, parts in network.get('parts', {}).items():
        options, limit = ARMS[arm].options, PARTS_LIMITS.get(name)
        if limit and options and options['hold'] == 'weight':
            share = parts['share']
            what = f'parts of WAU, {name}, {arm}, of a step'
            measured = show_percent(share)
            yield what, f'≤ {100 * limit:g} %', measured, share.median <= limit


def first_steps(network: Mapping) -> Mapping[str, Mapping]:
    """The table of a network's steps with the first number of threads, which is that of all."""
    return next(iter(network['steps'].values()))


def saved(network: Mapping, arm: str, ratio: Ratio) -> float:
    """What an arm saves of a step, in units of what its held slices' weight gradients take."""
    update_ratio = ARMS[arm].update_ratio
    assert update_ratio is not None  # others hold nothing
    return (1 - ratio.median) / ((1 - update_ratio) * network['weight_gradients'].median)


def show(ratio: Ratio) -> str:
    """A ratio as text, with its interval."""
    return f'{ratio.median:.3f}  ({ratio.low:.3f} to {ratio.high:.3f})'


def show_percent(ratio: Ratio) -> str:
    """A share as text, with its interval."""
    return f'{ratio.median:.1%}  ({ratio.low:.1%} to {ratio.high:.1%})'


def print_tables(results: Mapping, console: Console) -> None:
    """Print the tables of each network, and those of the other sections."""
    for network in results.get('networks', {}).values():
        for number, steps in network['steps'].items():
            console.print(steps_table(f'{network["name"]}, {network["data"]}', number, steps))
        if network['parts']:
            console.print(_parts_table(network))
        if 'operations' in network:
            console.print(_operations_table(network))
    if 'memory' in results:
        title = 'Peak of memory above that of the baseline, ResNet-50, in MiB'
        table = _table(title, 'arm', 'optimizer step', 'training step')
        for arm, extra in results['memory'].items():
            table.add_row(arm, f'{extra["optimizer step"]:.1f}', f'{extra["training step"]:.1f}')
        console.print(table)
    if 'busy machine' in results:
        spins = (f'GOMP_SPINCOUNT={number}' for number in SPIN_COUNTS)
        title = 'Training step of ResNet-18 beside busy processes, medians in ms'
        table = _table(title, 'busy processes', *spins, 'ratio')
        for row in rows_of(results['busy machine']):
            table.add_row(*row)
        console.print(table)
    title = 'Ratios to the baseline, medians with 95 % intervals'
    table = Table('what', 'target', 'measured', 'met', title=title)
    for *cells, met in targets_met(results):
        table.add_row(*cells, 'yes' if met else 'no')
    console.print(table)


def steps_table(network: str, threads: int | str, steps: Mapping) -> Table:
    """The table of the training steps of a network, from ``rounds.phase_table``."""
    title = f'{network}, threads: {threads}'
    columns = 'ms', 'ratio to baseline', "processor's ms", 'ratio to baseline', 'rounds'
    table = _table(title, 'arm', *columns)
    table.caption = (
        '95 % intervals. "not settled": the interval is wider than the effect, |ratio - 1|'
    )
    for arm, row in steps.items():
        cells = [arm]
        for phase in (WALL, PROCESSOR):
            ratio = row['ratios'][phase]
            note = '' if arm == BASELINE or ratio.is_settled else '\nnot settled'
            cells += [f'{1000 * row["seconds"][phase]:.1f}', show(ratio) + note]
        table.add_row(*cells, str(row['rounds']))
    return table


def _parts_table(network: Mapping) -> Table:
    title = (
        f'{network["name"]}: parts of WAU, ms an update. Weight gradients of the layers: '
        f'{show_percent(network["weight_gradients"])} of a step'
    )
    table = _table(title, 'arm', *PARTS, 'all', 'of a step')
    for arm, parts in network['parts'].items():
        seconds = [parts['seconds'][part] for part in PARTS]
        cells = [f'{1000 * value:.2f}' for value in (*seconds, sum(seconds))]
        table.add_row(arm, *cells, show_percent(parts['share']))
    return table


def _operations_table(network: Mapping) -> Table:
    title = f'{network["name"]}: operations in a training step, without the draw'
    columns = launches.REST, launches.STEP, 'all', 'more than the baseline'
    table = _table(title, 'arm', *columns)
    for row in launches.rows_of(network['operations']):
        table.add_row(*row)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    return Table(first, *(Column(name, justify='right') for name in columns), title=title)
