"""Names in messages and tables: short ones for paths side by side, the first ones of many."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

# Metrics of MMPreTrain that are in percent; those of COCO and VOC are fractions.
IN_PERCENT = ('accuracy/', 'single-label/', 'multi-label/')


def short_labels(paths: Sequence[str | PathLike]) -> list[str]:
    """Name each path, of a file or folder, by the parts in which the paths differ; no two alike.

    ``work_dirs/baseline/epoch_12.pth`` and ``work_dirs/wau/epoch_12.pth`` become ``baseline`` and
    ``wau``. A single path is named by its last two parts.

    Raises:
        ValueError: If a path is given twice.
    """
    resolved = [Path(path).resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f'A path is given more than once: {", ".join(map(str, paths))}')
    names = [path.with_suffix('').parts if path.is_file() else path.parts for path in resolved]
    if len(names) == 1:
        return ['/'.join(names[0][-2:])]
    if len(set(names)) < len(names):  # they differ only in their suffix
        names = [path.parts for path in resolved]
    first = 0
    while len({name[: first + 1] for name in names}) == 1:
        first += 1
    last = 0
    while len({name[-last - 1 :] for name in names}) == 1:
        last += 1
    labels = _cut(names, first, last)
    while len(set(labels)) < len(labels):  # the same parts more often, as in m/m.pth and m.pth
        first, last = first - 1, 0
        labels = _cut(names, first, last)
    return labels


def _cut(names: Sequence[Sequence[str]], first: int, last: int) -> list[str]:
    # One path may be another one's beginning.
    return ['/'.join(name[first : len(name) - last]) or name[-1] for name in names]


def name_some(names: Sequence[str], most: int) -> str:
    """The first names with commas between, and how many more there are: ``'a, b and 3 more'``."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def metric_label(metric: str) -> str:
    """A metric's name with its unit, for the axis of a picture."""
    return f'{metric} (%)' if metric.startswith(IN_PERCENT) else metric
