"""The update ratio over time, as a function of only the epoch or iteration."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mmwau.core.checks import as_update_ratio, check_choice

KINDS = {
    'constant': {'ratio'},
    'linear': {'start', 'stop'},
    'cosine': {'start', 'stop'},
    'milestones': {'milestones', 'ratios'},
}


class RatioSchedule:
    """The update ratio in phases of training.

    Each phase is a dict with ``type``, and ``begin`` (default 0) and ``end`` (default: never),
    epochs or iterations counted from 0, the end not included. Outside of all phases the
    schedule does nothing. The types, with their own keys:

    - ``'constant'``: ``ratio``. With ``ratio=1`` everything is active, as a warm-up or at the end.
    - ``'linear'``, ``'cosine'``: from ``start`` at ``begin`` to ``stop`` at the last epoch or
      iteration of the phase, which needs an ``end``.
    - ``'milestones'``: ``ratios``, one more than ``milestones``, changes to the next ratio at each
      milestone, counted as ``begin`` is.

    Args:
        phases: One phase, or several that do not overlap. All ratios are in (0, 1].

    Raises:
        TypeError: If a phase is no dict, or a value has the wrong type.
        ValueError: If a type, a key or a value is wrong, or phases overlap.
    """

    def __init__(self, phases: Mapping | Sequence[Mapping]):
        phases = [phases] if isinstance(phases, Mapping) else phases
        if not isinstance(phases, (list, tuple)) or not phases:
            raise TypeError(
                f'ratio_schedule must be a dict or a list of dicts, got {phases!r}; for '
                "example dict(type='linear', start=1.0, stop=0.5, end=12)"
            )
        self.phases = sorted((_checked(one) for one in phases), key=lambda s: s['begin'])
        for one, following in pairwise(self.phases):
            if one['end'] > following['begin']:
                raise ValueError(
                    f'ratio_schedule: the phase from {one["begin"]} to {one["end"]} overlaps '
                    f'with the one from {following["begin"]}; begin and end them apart'
                )

    def at(self, position: int) -> float | None:
        """The update ratio in an epoch or iteration, or None outside of all phases."""
        for phase in self.phases:
            if phase['begin'] <= position < phase['end']:
                return _ratio(phase, position)
        return None

    def cut_off(self, total: float) -> list[dict]:
        """Phases that don't come to their last ratio in so many epochs or iterations."""
        return [phase for phase in self.phases if _last_change(phase) >= total]


def _ratio(phase: Mapping, position: int) -> float:
    if phase['type'] == 'constant':
        return phase['ratio']
    if phase['type'] == 'milestones':
        return phase['ratios'][sum(position >= mark for mark in phase['milestones'])]
    last = phase['end'] - 1
    if position == last:
        return phase['stop']
    passed = (position - phase['begin']) / (last - phase['begin'])
    if phase['type'] == 'cosine':
        passed = (1 - math.cos(math.pi * passed)) / 2
    return phase['start'] + (phase['stop'] - phase['start']) * passed


def _last_change(phase: Mapping) -> int:
    """The first epoch or iteration that has the last ratio of a phase."""
    if phase['type'] == 'milestones':
        return phase['milestones'][-1] if phase['milestones'] else phase['begin']
    return phase['begin'] if phase['type'] == 'constant' else phase['end'] - 1


def _checked(phase: Mapping) -> dict:
    if not isinstance(phase, Mapping):
        raise TypeError(f'ratio_schedule: a phase must be a dict, got {phase!r}')
    kind: Any = phase.get('type')
    check_choice('ratio_schedule: type', kind, tuple(KINDS))
    keys = set(phase) - {'type', 'begin', 'end'}
    if keys != KINDS[kind]:
        raise ValueError(
            f'ratio_schedule: a phase of type {kind!r} takes {", ".join(sorted(KINDS[kind]))} '
            f'beside begin and end, got {", ".join(sorted(keys)) or "none of them"}'
        )
    begin, end = phase.get('begin', 0), phase.get('end', math.inf)
    if not _is_count(begin):
        raise ValueError(f'ratio_schedule: begin must be an integer of at least 0, got {begin!r}')
    if end != math.inf and (not _is_count(end) or end <= begin):
        raise ValueError(
            f'ratio_schedule: end must be an integer above begin ({begin}), got {end!r}'
        )
    if kind in ('linear', 'cosine') and end == math.inf:
        raise ValueError(f'ratio_schedule: a phase of type {kind!r} needs an end')
    for name in ('ratio', 'start', 'stop'):
        if name in phase:
            as_update_ratio(phase[name], f'ratio_schedule: {name}')
    if kind == 'milestones':
        _check_milestones(phase['milestones'], phase['ratios'], begin, end)
    return {**phase, 'begin': begin, 'end': end}


def _check_milestones(
    milestones: Sequence[int], ratios: Sequence[float], begin: int, end: float
) -> None:
    for name, values in (('milestones', milestones), ('ratios', ratios)):
        if not isinstance(values, (list, tuple)):
            raise TypeError(f'ratio_schedule: {name} must be a list, got {values!r}')
    marks = [begin, *milestones, end]
    if not all(_is_count(mark) for mark in milestones) or not all(
        one < following for one, following in pairwise(marks)
    ):
        raise ValueError(
            f'ratio_schedule: milestones must be integers that increase, between begin ({begin}) '
            f'and end ({end}), got {milestones!r}'
        )
    if len(ratios) != len(milestones) + 1:
        raise ValueError(
            f'ratio_schedule: {len(milestones)} milestones need {len(milestones) + 1} ratios, '
            f'got {len(ratios)}'
        )
    for ratio in ratios:
        as_update_ratio(ratio, 'ratio_schedule: ratios')


def _is_count(value: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
