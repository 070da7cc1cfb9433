"""Arms are measured in pairs until what is found is larger than the noise."""

import math
import random

import pytest

from mmwau.benchmark.rounds import (
    FEWEST,
    WARM_UP,
    Effort,
    Ratio,
    exactly,
    interleave,
    median_of,
    phase_table,
)


def arms_taking(**seconds):
    """Arms that take what the functions say, by their number of runs."""
    calls, ticks = [], []

    def arm(name):
        runs = iter(range(10**9))

        def run_once():
            calls.append(name)
            taken = seconds[name](next(runs))
            return {'training step': taken, 'processor': taken}

        return run_once

    return {name: arm(name) for name in seconds}, calls, ticks


def test_ratios_are_taken_within_a_round():
    baseline, other = [1, 10, 100, 1, 10, 100, 7], [2, 10, 50, 2, 10, 50, 7]
    rounds = [
        {'baseline': {'training step': a}, 'arm': {'training step': b}}
        for a, b in zip(baseline, other, strict=True)
    ]
    table = phase_table(rounds)
    assert table['arm']['ratios'] == {'training step': (1, 0.5, 2)}
    assert table['arm']['seconds'] == {'training step': 10}
    assert table['arm']['rounds'] == 7
    assert table['arm']['settled'] == {'training step': False}
    assert table['baseline']['ratios'] == {'training step': (1, 1, 1)}


def test_every_arm_runs_once_in_each_round_in_random_order_after_warming_up():
    arms, calls, ticks = arms_taking(baseline=lambda run: 1, a=lambda run: 1)
    times = interleave(arms, exactly(20), lambda: ticks.append(1))
    rounds = [tuple(calls[place : place + 2]) for place in range(0, len(calls), 2)]
    assert len(rounds) == 20 + WARM_UP
    assert set(rounds) == {('baseline', 'a'), ('a', 'baseline')}
    assert len(ticks) == len(calls)
    assert len(times) == 20
    assert all(list(each) == ['baseline', 'a'] for each in times)


def test_an_arm_rests_when_it_is_settled_and_the_others_go_on():
    noise = [1, 1.5, 0.7, 1.2, 0.9]
    arms, _, _ = arms_taking(
        baseline=lambda run: 1,
        clear=lambda run: 0.5 + 0.001 * (run % 3),
        noisy=lambda run: 0.9 * noise[run % 5],
    )
    times = interleave(arms, Effort(8, 30), lambda: None)
    table = phase_table(times)
    assert {arm: row['rounds'] for arm, row in table.items()} == {
        'baseline': 30,
        'clear': 8,
        'noisy': 30,
    }
    assert table['clear']['settled'] == {'training step': True, 'processor': True}
    assert table['noisy']['settled'] == {'training step': False, 'processor': False}


def test_rounds_end_when_all_arms_are_settled():
    values = [0.5, 1.5, 0.5, 1.5, 0.5, 1.5]
    arms, _, _ = arms_taking(
        baseline=lambda run: 1, late=lambda run: values[run] if run < 6 else 0.5
    )
    times = interleave(arms, Effort(FEWEST, 1000), lambda: None)
    assert FEWEST < len(times) < 40
    assert phase_table(times)['late']['settled']['training step']


@pytest.mark.parametrize('slow', ['training step', 'processor'])
def test_an_arm_goes_on_until_both_clocks_are_settled(slow):
    runs = iter(range(10**9))

    def arm():
        seconds = {'training step': 0.5, 'processor': 0.5}
        seconds[slow] = (0.5, 1.5)[next(runs) % 2]
        return seconds

    def baseline():
        return {'training step': 1, 'processor': 1}

    assert len(interleave({'baseline': baseline, 'arm': arm}, Effort(6, 9), lambda: None)) == 9


def test_no_round_begins_after_the_time_but_the_fewest():
    arms, _, _ = arms_taking(baseline=lambda run: 1, a=lambda run: 1 + (run % 2))
    assert len(interleave(arms, Effort(7, 1000, seconds=0), lambda: None)) == 7


def test_interval_has_the_median_in_95_of_100_cases_and_no_narrower_pair_has():
    for size in range(FEWEST, 60):
        low = int(median_of(range(size)).low)
        assert median_of(range(size)) == ((size - 1) / 2, low, size - 1 - low)

        def missed(left_out, size=size):
            # The median lies outside where so few of the values, or fewer, fall on one side.
            return 2 * sum(math.comb(size, count) for count in range(left_out + 1)) / 2**size

        assert missed(low) <= 0.05 < missed(low + 1)


def test_interval_covers_the_median_of_skewed_noise():
    draws = random.Random(0)
    covered = 0
    for _ in range(500):
        found = median_of([draws.expovariate(1) for _ in range(15)])
        covered += found.low <= math.log(2) <= found.high
    assert covered / 500 >= 0.94


def test_too_few_values_have_no_interval():
    with pytest.raises(ValueError, match=r'values must be at least 6, got 5: .* Make more rounds'):
        median_of([1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ('ratio', 'settled'),
    [((0.9, 0.86, 0.95), True), ((0.9, 0.84, 0.95), False), ((1.1, 1.04, 1.13), True)],
)
def test_settled_is_an_interval_narrower_than_the_effect(ratio, settled):
    assert Ratio(*ratio).is_settled == settled
