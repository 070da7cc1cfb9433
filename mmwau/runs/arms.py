"""Arms: runs that differ only in their seed, and statistics of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .run import Run


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seed, at least one, under a short name of their own."""

    label: str
    runs: Sequence[Run]

    @property
    def settings(self) -> Mapping[str, object]:
        """See :class:`Run`."""
        return self.runs[0].settings

    def values(self, name: str, at: int | None = None) -> list[tuple[int | None, float]]:
        """Seed and value of each run that has one; see :meth:`Run.final`."""
        values = [(run.seed, run.final(name, at)) for run in self.runs]
        return [(seed, value) for seed, value in values if value is not None]


def group_into_arms(runs: Sequence[Run]) -> list[Arm]:
    """Group runs whose configs agree in what they train and how; arms without WAU come first.

    An arm without WAU is called ``baseline``, one with it ``WAU``, followed by what distinguishes
    it from others of its kind: ``WAU hold=state``. Defaults of WAU are not shown.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        parts = [sorted(run.settings.items()), run.wau is None, sorted((run.wau or {}).items())]
        groups.setdefault(repr(parts), []).append(run)
    ordered = sorted(groups.values(), key=lambda group: group[0].wau is not None)
    firsts = [group[0] for group in ordered]
    with_wau = [run.wau for run in firsts if run.wau is not None]
    labels: list[str] = []
    for run in firsts:
        kind = ['baseline'] if run.wau is None else ['WAU', *_distinguishing(run.wau, with_wau)]
        alike = [other.settings for other in firsts if other.wau == run.wau]
        label = ' '.join([*kind, *_distinguishing(run.settings, alike)[:3]])
        same = sum(taken.split(' #')[0] == label for taken in labels)
        labels.append(f'{label} #{same + 1}' if same else label)
    return [Arm(label, group) for label, group in zip(labels, ordered, strict=True)]


def _distinguishing(own: Mapping[str, object], others: Sequence[Mapping[str, object]]) -> list[str]:
    """Settings by which some others differ, each in short."""
    missing = object()
    return list(
        dict.fromkeys(
            _short(name, value)
            for name, value in own.items()
            if any(other.get(name, missing) != value for other in others)
        )
    )


def _short(name: str, value: object) -> str:
    """A setting as a part of a label: the end of its name, and its value if that is short."""
    segments = name.split('.')
    name = '.'.join(segments[-2:]) if segments[-1] == 'type' else segments[-1]
    text = str(value)
    return name if isinstance(value, (dict, list)) and len(text) > 20 else f'{name}={text[:40]}'
