"""The results of the benchmark: a table in the terminal, a JSON file and a picture."""

import json
from collections.abc import Mapping
from os import PathLike

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from mmwau.files.whole import write_whole
from mmwau.reporting.plots import COLOURS, MARKERS, tidy

from .busy import SPIN_COUNTS, rows_of
from .measure import Ratio

ARM_COLOURS = {
    'weight': '#0072b2',
    'state': '#009e73',
    'state, skipping': '#d55e00',
    'grad, skipping': '#cc79a7',
    'naive loop': '#9a9a9a',
}


def targets_met(results: Mapping) -> list[tuple[str, str, str, bool | None]]:
    """The rows of the table of targets: what, target, measured, and whether it is met.

    Args:
        results: What ``tools/benchmark.py`` has measured, by section; what is missing is left out.
    """
    rows = []

    def add(what: str, target: str, measured: str, met: bool | None) -> None:
        rows.append((what, target, measured, met))

    def at_most(what: str, limit: float, ratio: Ratio) -> None:
        add(what, f'≤ {limit:.2f}', show(ratio), ratio.median <= limit)

    for channels, ratio in results.get('convolution', {}).items():
        at_most(f'backward of a 3x3 convolution, {channels} channels, skipping', 0.78, ratio)
    for network in results.get('networks', {}).values():
        arms, ratio_of_update = network['arms'], network['update_ratio']
        name = f'{network["name"]}, ratio {ratio_of_update}'
        skipping = arms['state, skipping']['ratios']['training step']
        limits = {('resnet50', 0.5): 0.90, ('resnet50', 0.25): 0.82}
        limit = limits.get((network['name'], ratio_of_update))
        if limit:
            at_most(f'training step, {name}, skipping', limit, skipping)
        saved = (1 - skipping.median) / network['ceiling']
        detector = network['name'].startswith('faster_rcnn')
        add(
            f'saved of the ceiling of {network["ceiling"]:.3f}, {name}',
            '≥ 80 %' if detector else '',
            f'{saved:.0%}  (step {show(skipping)})',
            saved >= 0.8 if detector else None,
        )
        if 'weight' in arms:
            at_most(f"training step, {name}, hold='weight'", 1.02,
                    arms['weight']['ratios']['training step'])  # fmt: skip
    if 'optimizer step' in results:
        steps = {arm: row['ratios'] for arm, row in results['optimizer step'].items()}
        weight = steps['weight']['optimizer step']
        at_most("optimizer step only, R50-FPN, hold='weight'", 1.30, weight)
        share = (weight.median - 1) / (steps['naive loop']['optimizer step'].median - 1)
        add('its extra time, of that of the naive loop', '≤ 50 %', f'{share:.0%}', share <= 0.5)
    if 'selection' in results:
        share = results['selection']
        percent = f'{share.median:.1%}  ({share.low:.1%} to {share.high:.1%})'
        add('selection of 100,000 filters in 1,000 layers, of an SGD step', '≤ 5 %', percent,
            share.median <= 0.05)  # fmt: skip
    # Held slices once, twice, once; and their indices.
    limits = {'weight': 1.02, 'state': 2.02, 'state, skipping': 1.02}
    for arm, limit in limits.items():
        if 'memory' in results:
            extra = results['memory'][arm]['optimizer step']
            add(f'extra memory in the step, ResNet-50, {arm}, in held slices', f'≤ {limit}',
                f'{extra:.2f}', extra <= limit)  # fmt: skip
    if 'bytes sent' in results:
        sent = results['bytes sent']
        wire = f', on the wire in all {sent["wire"]:.3f}' if 'wire' in sent else ''
        add('gradient bytes of held layers, 2 processes', '≤ 0.52',
            f'{sent["held layers"]:.3f}{wire}', sent['held layers'] <= 0.52)  # fmt: skip
    return rows


def show(ratio: Ratio) -> str:
    """A ratio as text, with its quartiles."""
    return f'{ratio.median:.3f}  ({ratio.low:.3f} to {ratio.high:.3f})'


def print_tables(results: Mapping, console: Console) -> None:
    """Print one table for each network, and that of the targets."""
    for network in results.get('networks', {}).values():
        table = Table(title=f'{network["name"]}, {network["data"]}, update_ratio '
                      f'{network["update_ratio"]}: medians in ms')  # fmt: skip
        table.add_column('arm')
        for phase in network['arms']['baseline']['seconds']:
            table.add_column(phase, justify='right')
        table.add_column('step, ratio to baseline', justify='right', no_wrap=True)
        for arm, row in network['arms'].items():
            seconds = [f'{1000 * value:.1f}' for value in row['seconds'].values()]
            table.add_row(arm, *seconds, show(row['ratios']['training step']))
        console.print(table)
    if 'busy machine' in results:
        table = Table(title='Training step of ResNet-18 beside busy processes, medians in ms')
        for column in ('busy processes', *(f'GOMP_SPINCOUNT={n}' for n in SPIN_COUNTS), 'ratio'):
            table.add_column(column, justify='right')
        for row in rows_of(results['busy machine']):
            table.add_row(*row)
        console.print(table)
    table = Table(title='Ratios to the baseline, medians with quartiles')
    for column in ('what', 'target', 'measured', 'met'):
        table.add_column(column)
    for what, target, measured, met in targets_met(results):
        table.add_row(what, target, measured, {True: 'yes', False: 'no', None: ''}[met])
    console.print(table)


def write_json(results: Mapping, path: str | PathLike) -> None:
    """Write all that was measured."""
    write_whole(json.dumps(results, indent=1).encode(), path)


def draw(results: Mapping, path: str | PathLike) -> None:
    """Draw the networks' training steps, and how cost grows."""
    growth = results.get('growth', {})
    figure = Figure(figsize=(11, 8 if growth else 4.5), layout='constrained')
    axes = figure.subplots(2, 2) if growth else [[figure.subplots()]]
    _draw_networks(axes[0][0], results['networks'])
    if growth:
        _draw_lines(axes[0][1], growth['width'], 'channels (28x28, batch 8)',
                    'backward pass, ratio to baseline')  # fmt: skip
        axes[0][1].set_xscale('log', base=2)
        _draw_lines(axes[1][0], growth['ratio'], 'update_ratio (3x3 convolution, 256 channels)',
                    'backward pass, ratio to baseline')  # fmt: skip
        _draw_lines(axes[1][1], growth['layers'], 'layers (3x3, 32 channels each)',
                    'selection and optimizer step, ratio to baseline')  # fmt: skip
        axes[1][1].set_xscale('log')
        for panel, ticks in ((axes[0][1], growth['width']), (axes[1][1], growth['layers'])):
            places = [float(place) for place in next(iter(ticks.values()))]
            panel.set_xticks(places, [f'{place:g}' for place in places])
            panel.minorticks_off()
    machine = results['machine']
    figure.suptitle(f'{machine["device"]}, {machine["threads"]} threads, torch {machine["torch"]}; '
                    'medians with quartiles', fontsize=10)  # fmt: skip
    figure.savefig(path, dpi=150)


def _draw_networks(axes: Axes, networks: Mapping) -> None:
    labels = [f'{each["name"]}\nratio {each["update_ratio"]}' for each in networks.values()]
    arms = [arm for arm in ARM_COLOURS if any(arm in each['arms'] for each in networks.values())]
    height = 0.8 / len(arms)
    for place, arm in enumerate(arms):
        rows, ratios = [], []
        for row, each in enumerate(networks.values()):
            if arm in each['arms']:
                rows.append(row - 0.4 + height * (place + 0.5))
                ratios.append(each['arms'][arm]['ratios']['training step'])
        errors = [[ratio.median - ratio.low for ratio in ratios],
                  [ratio.high - ratio.median for ratio in ratios]]  # fmt: skip
        medians = [ratio.median for ratio in ratios]
        axes.errorbar(medians, rows, xerr=errors, fmt='o', markersize=4, linewidth=1.5,
                      color=ARM_COLOURS[arm], label=arm)  # fmt: skip
    bounds = [1 - each['ceiling'] for each in networks.values()]
    axes.scatter(bounds, range(len(bounds)), marker='|', s=250, color='black',
                 label='1 - ceiling of skipping')  # fmt: skip
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.axvline(1, color='#555555', linewidth=1)
    axes.set_xlabel('training step, ratio to baseline')
    axes.legend(fontsize=7, frameon=False, loc='upper center', bbox_to_anchor=(0.5, -0.14), ncols=3)
    tidy(axes)


def _draw_lines(axes: Axes, lines: Mapping[str, Mapping], x_label: str, y_label: str) -> None:
    for (label, points), colour, marker in zip(lines.items(), COLOURS[1:], MARKERS, strict=False):
        medians = [ratio.median for ratio in points.values()]
        errors = [[ratio.median - ratio.low for ratio in points.values()],
                  [ratio.high - ratio.median for ratio in points.values()]]  # fmt: skip
        axes.errorbar(list(points), medians, yerr=errors, marker=marker, markersize=5,
                      linewidth=1.5, color=colour, label=label)  # fmt: skip
    axes.axhline(1, color='#555555', linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(fontsize=8, frameon=False)
    tidy(axes)
