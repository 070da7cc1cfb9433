"""Trainings side by side: tables, pictures, a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmwau.engine.overlap_hook import MOVEMENTS
from mmwau.overlap import STAGE_OVERLAP
from mmwau.reporting.curves import FEW_POINTS, MOST_LINES, NOTE, OVERLAP, draw_means, in_panels
from mmwau.reporting.labels import metric_label
from mmwau.reporting.numbers import MINUS, NO_BREAK, NO_VALUE, mean_text, number_text
from mmwau.reporting.page import Section, Table
from mmwau.reporting.plots import legend_above, styles, tidy
from mmwau.reporting.statistics import Summary, difference, summarise

from .arms import Arm
from .checks import metric_names
from .run import Run

# With more arms, differences get a table of their own.
ARMS_IN_ONE_TABLE = 3
LABELS = {'path_length': 'path length'}
MARKED = dict(markerfacecolor='white', zorder=3)
HOW_TO_READ = (
    'An arm is all runs whose configs agree in everything but the seed. A mean is shown with ± the '
    'sample standard deviation over the runs of the arm, and their number in brackets; one run has '
    'no spread. ± is not the margin of error of the mean, and with two or three runs it is itself '
    'uncertain: a difference as large as the spread may be chance.',
    'A difference is the arm minus the baseline. Runs of the same seed are paired: the mean of '
    'their differences is shown with ± their sample standard deviation. If no seed is in both '
    'arms, it is the difference of the two means, marked as unpaired, without a spread.',
    'Loss: training loss over the last whole epoch, or over the last tenth of the logged points '
    'where training counts iterations; each logged point is a mean over '
    'log_processor.window_size iterations. Overlap: mean |cosine| between the filters of a layer '
    '(the measure of RePr, 1811.07275), mean over the measured layers, as measured last; a stage '
    'is the mean over its layers. Less overlap is not better by itself: look at the metric.',
    'Path length: the sum over updates of the angle in radians between a filter before and after, '
    'mean over filters and layers; displacement: the angle between a filter and itself at the '
    'start. Both are measured where OverlapHook or WAUHook has movement=True.',
    'In pictures a line is the mean over the runs of an arm, at the points that all of them have; '
    'the band, or bar, is ± their sample standard deviation. A curve with fewer than '
    f'{FEW_POINTS} points is shown as these points, those of the arms side by side. With more than '
    f'{MOST_LINES} arms there are more panels, each with the baseline.',
)


@dataclass(frozen=True)
class RunsReport:
    """Arms that are compared.

    Args:
        arms: At least one; the first is the baseline, with which the others are compared.
        metric: Name of the metric to draw; None where no run has a metric.
        at: Epoch or iteration to compare at; None for the end of each run.
    """

    arms: Sequence[Arm]
    metric: str | None
    at: int | None = None

    @property
    def runs(self) -> list[Run]:
        """The runs of all arms."""
        return [run for arm in self.arms for run in arm.runs]

    @property
    def stages(self) -> list[str]:
        """Names of the stages' overlaps, ``'stage_overlap/STAGE'``."""
        names = dict.fromkeys(name for run in self.runs for name in run.overlaps)
        return [name for name in names if name != 'overlap']

    def names(self) -> list[str]:
        """What the table of final values has, a row each: metrics, loss, overlap, path length."""
        measured = [('overlap', run.overlaps) for run in self.runs]
        measured += [(name, run.movements) for name in MOVEMENTS for run in self.runs]
        found = dict.fromkeys(name for name, curves in measured if name in curves)
        return [*metric_names(self.runs, self.at), 'loss', *found]

    def summary(self, arm: Arm, name: str) -> Summary | None:
        """Mean and spread of a final value; None if no run of the arm has one."""
        return summarise([value for _, value in arm.values(name, self.at)])

    def difference(self, arm: Arm, name: str) -> Summary | None:
        """Difference of a final value to the baseline; None if one of the two has none."""
        return difference(arm.values(name, self.at), self.arms[0].values(name, self.at))

    def value_tables(self) -> list[Table]:
        """Final metrics, loss and overlap of the network, and the differences."""
        return self._tables(self.names(), f'Values {self._when}')

    def stage_tables(self) -> list[Table]:
        """The overlap of each stage, and the differences."""
        return self._tables(self.stages, f'Filter overlap of each stage {self._when}')

    @property
    def _when(self) -> str:
        return 'at the end' if self.at is None else f'at {self.runs[0].unit} {self.at}'

    def _tables(self, names: Sequence[str], title: str) -> list[Table]:
        baseline, *others = self.arms
        means = [[_label(name), *(self._mean(arm, name) for arm in self.arms)] for name in names]
        minus = [[_label(name), *(self._minus(arm, name) for arm in others)] for name in names]
        columns = ['', *(arm.label for arm in self.arms)]
        title_of_means = f'{title}, mean ± sample std (runs)'
        if len(self.arms) <= ARMS_IN_ONE_TABLE:
            columns += [f'{arm.label} {MINUS} {baseline.label}' for arm in others]
            rows = [left + right[1:] for left, right in zip(means, minus, strict=True)]
            return [Table(title_of_means, columns, rows)]
        title_of_minus = f'{title}, difference to {baseline.label}'
        columns_of_minus = ['', *(arm.label for arm in others)]
        return [
            Table(title_of_means, columns, means),
            Table(title_of_minus, columns_of_minus, minus),
        ]

    def _mean(self, arm: Arm, name: str) -> str:
        found = self.summary(arm, name)
        return NO_VALUE if found is None else self._cell(name, found, f'{found.count}')

    def _minus(self, arm: Arm, name: str) -> str:
        found = self.difference(arm, name)
        if found is None:
            return NO_VALUE
        pairs = f'{found.count}{NO_BREAK}pair{"s" * (found.count > 1)}'
        return self._cell(name, found, pairs if found.paired else 'unpaired', '+')

    def _cell(self, name: str, found: Summary, count: str, sign: str = '') -> str:
        # On a page a line break is a space; the columns of many arms are narrow in a terminal.
        space = ' ' if len(self.arms) <= ARMS_IN_ONE_TABLE else '\n'
        return f'{mean_text(found, self._decimals(name), sign)}{space}({count})'

    def _decimals(self, name: str) -> int:
        """The decimals of a value, as many for all of its kind."""
        if name == 'overlap' or name.startswith(STAGE_OVERLAP):
            return 4
        values = [abs(value) for arm in self.arms for _, value in arm.values(name, self.at)]
        return 2 if max(values, default=0) >= 10 else 3

    def table_by_run(self) -> Table:
        """Each run's final values."""
        names = [*self.names(), *self.stages]
        decimals = {name: self._decimals(name) for name in names}
        rows = []
        for arm in self.arms:
            for run in arm.runs:
                values = (run.final(name, self.at) for name in names)
                cells = map(number_text, values, decimals.values())
                rows.append([arm.label, _seed(run), *cells])
        return Table(f'Each run {self._when}', ['arm', 'seed', *map(_label, names)], rows)

    def table_of_runs(self) -> Table:
        """Where each run lies, how long it was trained, and with which WAU."""
        rows = []
        for arm in self.arms:
            for run in arm.runs:
                trained = f'{run.trained} of {run.length}'.replace(' ', NO_BREAK)
                wau = NO_VALUE
                if run.wau is not None:
                    wau = ', '.join(f'{k}={v!r}' for k, v in run.wau.items()) or 'defaults'
                config = str(run.config.relative_to(run.work_dir))
                rows.append([arm.label, _seed(run), str(run.work_dir), trained, wau, config])
        columns = ['arm', 'seed', 'work_dir', f'{self.runs[0].unit}s', 'WAU', 'config in it']
        return Table('Runs', columns, rows)

    def draw_curves(self) -> Figure:
        """The metric, the loss and the overlap of the network as training goes on.

        Of many arms some stand in panels of their own, beside the baseline.
        """
        drawn = [name for name in (self.metric, 'loss') if name is not None]
        if 'overlap' in self.names():
            drawn.append('overlap')
        groups = in_panels([arm.label for arm in self.arms])
        size = max(6.5, 4.1 * len(drawn)), 4.1 * len(groups)
        figure = Figure(figsize=size, layout='constrained')
        parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
        labels = {'loss': 'training loss', 'overlap': OVERLAP}
        for part, group in zip(parts, groups, strict=True):
            grid = part.subplots(1, len(drawn), squeeze=False)[0]
            for axes, name in zip(grid, drawn, strict=True):
                curves = self._curves(name, group)
                runs = [run for arm in curves.values() for run in arm]
                if name == self.metric and all(len(run) < 2 for run in runs):
                    self._draw_points(axes, curves)
                else:
                    axes.set_title(self._draw(axes, curves), **NOTE)
                    unit = f'{self.runs[0].unit}s' if name == self.metric else 'iterations'
                    axes.set_xlabel(unit)
                if name == self.metric and self.at is not None:
                    axes.axvline(self.at, color='#707070', linestyle=':', linewidth=1, zorder=0)
                axes.set_ylabel(labels.get(name, metric_label(name)))
                tidy(axes)
            legend_above(part, grid[-1])
        return figure

    def draw_stages(self) -> Figure:
        """The overlap of each stage as training goes on, a panel for each; see draw_curves."""
        groups = in_panels([arm.label for arm in self.arms])
        columns = min(4, len(self.stages))
        rows = math.ceil(len(self.stages) / columns)
        size = max(6.5, 3.4 * columns), (2.5 * rows + 0.8) * len(groups)
        figure = Figure(figsize=size, layout='constrained')
        parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
        for part, group in zip(parts, groups, strict=True):
            grid = part.subplots(rows, columns, sharex=True, squeeze=False).ravel()
            for axes, name in zip(grid, self.stages, strict=False):
                note = self._draw(axes, self._curves(name, group))
                axes.set_title(_label(name), fontsize=10)
                tidy(axes)
            for axes in grid[len(self.stages) :]:
                axes.set_axis_off()
            for axes in grid[len(self.stages) - columns : len(self.stages)]:
                axes.tick_params(labelbottom=True)
            part.supxlabel(f'iterations ({note})' if note else 'iterations', fontsize=10)
            part.supylabel(OVERLAP, fontsize=10)
            legend_above(part, grid[0])
        return figure

    def sections(self, warnings: Sequence[str]) -> list[Section]:
        """The parts of the page, first the sentences of warning."""
        sections = [Section('Warnings', list(warnings))] if warnings else []
        first = [f'Differences are relative to {self.arms[0].label}.'] if len(self.arms) > 1 else []
        sections += [
            Section('Values', [*first, *self.value_tables()]),
            Section('Curves', [self.draw_curves()]),
        ]
        if self.stages:
            sections.append(Section('Overlap by stage', [self.draw_stages(), *self.stage_tables()]))
        return [
            *sections,
            Section('Runs', [self.table_by_run(), self.table_of_runs()]),
            Section('How these numbers are computed', HOW_TO_READ),
        ]

    def results(self, warnings: Sequence[str]) -> dict:
        """Everything in the tables, for a JSON file."""
        found = dict(baseline=self.arms[0].label, metric=self.metric, at=self.at)
        return dict(found, warnings=list(warnings), arms=dict(map(self._results_of, self.arms)))

    def _results_of(self, arm: Arm) -> tuple[str, dict]:
        names = [*self.names(), *self.stages]
        runs = []
        for run in arm.runs:
            told: dict = dict(work_dir=str(run.work_dir), config=str(run.config), seed=run.seed)
            told |= dict(trained=run.trained, planned=run.length, unit=run.unit)
            runs.append(dict(told, values={name: run.final(name, self.at) for name in names}))
        values = {name: _as_dict(self.summary(arm, name)) for name in names}
        compared = names if arm is not self.arms[0] else []
        minus = {name: _as_dict(self.difference(arm, name)) for name in compared}
        return arm.label, dict(wau=arm.runs[0].wau, runs=runs, values=values, differences=minus)

    def _curves(self, name: str, arms: Sequence[str]) -> dict[str, list[dict[int, float]]]:
        return {
            arm.label: [run.curve(name) for run in arm.runs]
            for arm in self.arms
            if arm.label in arms
        }

    def _draw(self, axes: Axes, curves: Mapping[str, Sequence[Mapping[int, float]]]) -> str:
        """Draw the mean of each arm with its spread, and tell how this is shown."""
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        return draw_means(axes, curves)

    def _draw_points(self, axes: Axes, curves: Mapping[str, Sequence[Mapping[int, float]]]) -> None:
        """Draw the only value of each run, arms side by side, with a line for the mean."""
        for index, (label, style) in enumerate(styles(curves).items()):
            values = [value for curve in curves[label] for value in curve.values()]
            look: dict = dict(MARKED, label=label, linestyle='none', markersize=6, **style)
            axes.plot([index] * len(values), values, **look)
            if values:
                ends = index - 0.3, index + 0.3
                axes.hlines(fmean(values), *ends, color=style['color'], linewidth=2)
        steps = {step for runs in curves.values() for curve in runs for step in curve}
        axes.set_xlim(-0.6, len(curves) - 0.4)
        axes.set_xticks([])
        axes.set_xlabel(
            f'after {self.runs[0].unit} {", ".join(map(str, sorted(steps)))} '
            '(a mark each run, a line the mean)'
        )


def _label(name: str) -> str:
    return LABELS.get(name, name.removeprefix(STAGE_OVERLAP))


def _seed(run: Run) -> str:
    return NO_VALUE if run.seed is None else str(run.seed)


def _as_dict(found: Summary | None) -> dict | None:
    return None if found is None else asdict(found)
