import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmwau.engine.ratio_schedule import RatioSchedule

RATIOS = st.floats(0.001, 1)


def values(phases, count):
    schedule = RatioSchedule(phases)
    return [schedule.at(position) for position in range(count)]


def test_constant_in_its_phase_and_no_say_outside():
    phase = dict(type='constant', ratio=0.25, begin=1, end=3)
    assert values(phase, 4) == [None, 0.25, 0.25, None]
    assert values(dict(type='constant', ratio=1), 2) == [1, 1]


def test_linear_from_start_to_stop():
    phase = dict(type='linear', start=1.0, stop=0.5, begin=1, end=6)
    assert values(phase, 7) == [None, 1.0, 0.875, 0.75, 0.625, 0.5, None]


def test_cosine_from_start_to_stop():
    phase = dict(type='cosine', start=1.0, stop=0.2, end=5)
    expected = [0.6 + 0.4 * math.cos(math.pi * step / 4) for step in range(5)]
    assert values(phase, 5) == pytest.approx(expected)
    assert values(phase, 5)[-1] == 0.2


def test_milestones():
    phase = dict(type='milestones', milestones=[2, 3], ratios=[1, 0.5, 0.25])
    assert values(phase, 5) == [1, 1, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ('phase', 'enough'),
    [
        (dict(type='constant', ratio=0.25, begin=2, end=9), 3),
        (dict(type='linear', start=1, stop=0.5, begin=2, end=9), 9),
        (dict(type='cosine', start=1, stop=0.5, end=9), 9),
        (dict(type='milestones', milestones=[4, 6], ratios=[1, 0.5, 0.25], end=9), 7),
    ],
)
def test_a_training_may_be_too_short_for_a_phase(phase, enough):
    schedule = RatioSchedule([dict(type='constant', ratio=1, begin=20), phase])
    assert schedule.cut_off(21) == []
    assert len(schedule.cut_off(enough)) == 1
    assert len(schedule.cut_off(enough - 1)) == 2


def test_warm_up_and_last_phase_with_everything_active():
    phases = [
        dict(type='constant', ratio=1, begin=8),
        dict(type='constant', ratio=1, end=2),
        dict(type='cosine', start=0.75, stop=0.25, begin=2, end=5),
    ]
    ratios = values(phases, 10)
    assert ratios[:3] == [1, 1, 0.75]
    assert ratios[4:] == [0.25, None, None, None, 1, 1]


@given(st.sampled_from(['linear', 'cosine']), RATIOS, RATIOS, st.integers(1, 50))
def test_stays_between_start_and_stop(kind, start, stop, end):
    ratios = values(dict(type=kind, start=start, stop=stop, end=end), end)
    low, high = min(start, stop), max(start, stop)
    assert all(low - 1e-12 <= ratio <= high + 1e-12 for ratio in ratios)
    assert ratios[-1] == stop


@pytest.mark.parametrize(
    ('phases', 'error', 'words'),
    [
        (0.5, TypeError, r'ratio_schedule must be a dict or a list of dicts, got 0.5; for example'),
        ([], TypeError, r'ratio_schedule must be a dict or a list of dicts, got \[\]'),
        ([0.5], TypeError, r'a phase must be a dict, got 0.5'),
        (dict(ratio=1), ValueError, r"type must be one of 'constant', .*'milestones', got None"),
        (dict(type='step', ratio=1), ValueError, r"got 'step'"),
        (dict(type='constant'), ValueError, r"'constant' takes ratio beside begin and end, got no"),
        (dict(type='linear', ratio=1, end=2), ValueError, r"'linear' takes start, stop .* ratio"),
        (dict(type='constant', ratio=0), ValueError, r'ratio must be in \(0, 1\], got 0'),
        (dict(type='constant', ratio='1'), TypeError, r"ratio must be a number .* got '1' of type"),
        (dict(type='cosine', start=1, stop=1.2, end=3), ValueError, r'stop must be in .* got 1.2'),
        (dict(type='cosine', start=1, stop=0.5), ValueError, r"type 'cosine' needs an end"),
        (dict(type='constant', ratio=1, begin=-1), ValueError, r'begin .* at least 0, got -1'),
        (dict(type='constant', ratio=1, begin=2, end=2), ValueError, r'above begin \(2\), got 2'),
        (
            dict(type='milestones', milestones=[3, 2], ratios=[1, 1, 1]),
            ValueError,
            r'integers that increase, between begin \(0\) and end \(inf\), got \[3, 2\]',
        ),
        (
            dict(type='milestones', milestones=[50], ratios=[1, 0.5], end=10),
            ValueError,
            r'between begin \(0\) and end \(10\), got \[50\]',
        ),
        (dict(type='milestones', milestones=5, ratios=[1]), TypeError, r'milestones must be a li'),
        (dict(type='milestones', milestones=[5], ratios=1), TypeError, r'ratios must be a list'),
        (dict(type='constant', ratio=1, begin=True), ValueError, r'begin must .* got True'),
        (
            dict(type='milestones', milestones=[3], ratios=[1]),
            ValueError,
            r'1 milestones need 2 ratios, got 1',
        ),
        (
            dict(type='milestones', milestones=[3], ratios=[1, 0]),
            ValueError,
            r'ratios must be in \(0, 1\], got 0',
        ),
        (
            [dict(type='constant', ratio=1, end=3), dict(type='constant', ratio=1, begin=2)],
            ValueError,
            r'the phase from 0 to 3 overlaps with the one from 2',
        ),
    ],
)
def test_wrong_schedules_are_reported(phases, error, words):
    with pytest.raises(error, match=words):
        RatioSchedule(phases)
