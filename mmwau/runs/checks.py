"""What of trainings can be compared, and what makes the comparison less than fair."""

from collections.abc import Sequence

from mmwau.overlap import STAGE_OVERLAP
from mmwau.reporting.labels import name_some

from .arms import Arm
from .metrics import choose_metric, is_measured, why_left_out
from .run import Run
from .settings import differences

# How many names a warning lists.
NAMED = 8


def metric_names(runs: Sequence[Run], at: int | None = None) -> list[str]:
    """Names of the metrics that all runs have, but for runs without any metric.

    Those that are a measurement in no run, there or at the last validation, are left out.
    """
    validated = [run for run in runs if run.metrics]
    return [
        name
        for name in dict.fromkeys(name for run in validated for name in run.metrics)
        if all(name in run.metrics for run in validated)
        and any(run.final(name, at) is not None for run in validated)
    ]


def baseline_first(arms: Sequence[Arm], asked: str | None) -> list[Arm]:
    """Put the baseline before the others: the arm of this label, or else the first one.

    Raises:
        ValueError: If there is no such arm; it lists those that exist.
    """
    labels = [arm.label for arm in arms]
    if asked is not None and asked not in labels:
        raise ValueError(f'--baseline {asked!r} is no arm. Arms that exist: {", ".join(labels)}')
    first = labels.index(asked) if asked else 0
    return [arms[first], *arms[:first], *arms[first + 1 :]]


def check_comparable(runs: Sequence[Run], at: int | None) -> None:
    """Raise if runs can't be compared, or not at this epoch or iteration.

    Raises:
        ValueError: If runs count training in different units, or not all have a validation at
            that point.
    """
    units = {run.unit: run.work_dir for run in runs}
    if len(units) > 1:
        raise ValueError(
            f'{units["epoch"]} counts epochs and {units["iteration"]} iterations; such runs can '
            'not be compared'
        )
    without = [str(run.work_dir) for run in runs if at is not None and at not in run.validations]
    if without:
        common = map(str, common_validations(runs))
        raise ValueError(
            f'--at {at}: no validation after this {runs[0].unit} in {", ".join(without)}. '
            f'All runs have one after: {", ".join(common) or "none"}'
        )


def common_validations(runs: Sequence[Run]) -> list[int]:
    """Epochs or iterations after which all runs have a validation."""
    return sorted(set.intersection(*(set(run.validations) for run in runs)))


def find_warnings(arms: Sequence[Arm], metric: str | None, at: int | None) -> list[str]:
    """What makes a comparison with the first arm less than fair, in sentences."""
    runs = [run for arm in arms for run in arm.runs]
    found = [note for run in runs for note in run.notes]
    for arm in arms[1:]:
        others = differences(arms[0].settings, arm.settings)
        if others:
            found.append(
                f'These arms differ in more than WAU: {arms[0].label} and {arm.label} in '
                f'{name_some(others, 6)}'
            )
    found += _not_alike(runs)
    unfinished = [run for run in runs if not run.finished]
    if at is None and unfinished:
        where = (f'{run.work_dir} ({run.unit} {run.trained} of {run.length})' for run in unfinished)
        common = common_validations(runs)
        hint = 'there is no point yet at which all runs have a validation'
        if common:
            hint = f'--at {common[-1]} compares all at that {runs[0].unit}'
        found.append(f'Not finished: {", ".join(where)}; {hint}')
    for arm in arms:
        seeds = [run.seed for run in arm.runs if run.seed is not None]
        twice = [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]
        if twice:
            found.append(
                f'{arm.label} has more than one run of seed {", ".join(map(str, twice))}; they '
                'count as separate runs'
            )
    diverged = [str(run.work_dir) for run in runs if run.diverged]
    if diverged:
        found.append(f'Diverged, since the last loss is no number: {", ".join(diverged)}')
    found += _left_out(runs, at)
    if metric is None:
        why = 'No run has a validation'
        if any(run.validations for run in runs):
            why = 'No metric is a measurement in any run'
        if any(run.final(name, at) is not None for run in runs for name in run.metrics):
            why = 'The runs have no metric in common'
        found.append(f'{why}: there are no metrics')
    names: dict[tuple[str, ...], list[str]] = {}
    for name in metric_names(runs, at):
        without = tuple(str(run.work_dir) for run in runs if run.logged(name, at) is None)
        if without:
            names.setdefault(without, []).append(name)
    found += [
        f'No {name_some(missing, NAMED)} in the last validation of {", ".join(without)} (none was '
        'done, or nothing was detected, which MMDetection gives no metric for): left out of the '
        'mean'
        for without, missing in names.items()
    ]
    return found


def _not_alike(runs: Sequence[Run]) -> list[str]:
    """Sentences on what no config shows: the number of processes, the data, the measured layers."""
    lengths: dict[str, list[str]] = {}
    stages: dict[str, list[str]] = {}
    for run in runs:
        if run.epoch_length is not None:
            lengths.setdefault(f'{run.epoch_length:g}', []).append(str(run.work_dir))
        if run.overlaps:
            names = [name.removeprefix(STAGE_OVERLAP) for name in run.overlaps if name != 'overlap']
            stages.setdefault(name_some(sorted(names), NAMED), []).append(str(run.work_dir))
    sentences = {
        'An epoch does not have the same number of iterations in all runs, as with another number '
        'of processes, batch size or data': lengths,
        'The overlap is not that of the same stages in all runs': stages,
    }
    return [
        f'{sentence}: {"; ".join(f"{what} in {name_some(where, NAMED)}" for what, where in each)}'
        for sentence, each in ((told, found.items()) for told, found in sentences.items())
        if len(each) > 1
    ]


def _left_out(runs: Sequence[Run], at: int | None) -> list[str]:
    """Sentences on the values that were logged but are no measurement."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for name in (*run.metrics, 'loss', *run.overlaps, *run.movements):
            value = run.logged(name, at)
            if value is not None and run.final(name, at) is None:
                found.setdefault((name, why_left_out(value)), []).append(str(run.work_dir))
    names: dict[tuple, list[str]] = {}
    for (name, reason), where in found.items():
        names.setdefault((reason, *where), []).append(name)
    return [
        f'Left out, being no measurement ({reason}): {name_some(left_out, NAMED)} of '
        f'{", ".join(where)}'
        for (reason, *where), left_out in names.items()
    ]


def choose_shown_metric(runs: Sequence[Run], asked: str | None) -> str | None:
    """The metric to draw: what was asked for, or the first known one, or else the first.

    None if no run has a metric and none was asked for.

    Raises:
        ValueError: If there is no such metric; it lists those that exist.
    """
    names = metric_names(runs)
    # Those that are a measurement in no run.
    others = {
        name: value
        for run in runs
        for name in run.metrics
        if name not in names and (value := run.logged(name)) is not None and not is_measured(value)
    }
    if not names and asked not in others:
        if asked is not None:
            raise ValueError(f'--metric {asked}: the runs have no metric in common')
        return None
    return choose_metric({**others, **dict.fromkeys(names, 0.0)}, asked)
