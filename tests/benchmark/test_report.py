"""The tables say what was measured, and judge it by the median."""

import pytest
from rich.console import Console

from mmwau.benchmark.networks import DETECTOR
from mmwau.benchmark.parts import PARTS
from mmwau.benchmark.report import print_tables, targets_met
from mmwau.benchmark.rounds import Ratio


def network(name, ratio, processor=None):
    judged = {'training step': ratio, 'processor': processor or ratio}
    one = Ratio(1, 1, 1)
    rows = {
        'baseline': dict(ratios={'training step': one, 'processor': one}),
        'filters 0.5': dict(ratios=judged),
        'layers 0.5': dict(ratios=judged),
    }
    for row in rows.values():
        row.update(rounds=15, seconds={'training step': 0.8, 'processor': 1.6})
    parts = dict(seconds=dict.fromkeys(PARTS, 0.002), share=Ratio(0.014, 0.01, 0.03))
    return dict(
        name=name,
        data='batch 8',
        steps={'2': rows},
        parts={'weight 0.5': parts},
        weight_gradients=Ratio(0.2, 0.19, 0.21),
    )


def test_targets_are_judged_by_the_median():
    results = dict(
        networks={
            'resnet50': network('resnet50', Ratio(0.91, 0.85, 0.95)),
            'resnet20_cifar10': network('resnet20_cifar10', Ratio(0.9, 0.85, 0.95)),
            DETECTOR: network(DETECTOR, Ratio(0.911, 0.85, 0.95)),
        },
        selection=Ratio(0.04, 0.03, 0.06),
    )
    rows = {what: (measured, met) for what, _, measured, met in targets_met(results)}
    measured, met = rows['training step, resnet50, filters 0.5']
    assert measured == '0.910  (0.850 to 0.950)'
    assert met is True
    assert rows['training step, resnet50, layers 0.5'] == (measured, False)
    assert rows['training step, resnet20_cifar10, layers 0.5'][1] is True
    assert 'training step, resnet20_cifar10, filters 0.5' not in rows
    share = '1.4%  (1.0% to 3.0%)'
    assert rows['parts of WAU, resnet50, weight 0.5, of a step'] == (share, False)
    assert rows['parts of WAU, resnet20_cifar10, weight 0.5, of a step'] == (share, True)
    # 0.089 of the step, of the 0.1 that the weight gradients of held slices take.
    what = f"saved of the held layers' weight gradients, {DETECTOR}, "
    measured, met = rows[what + 'filters 0.5']
    assert measured.startswith('89%')
    assert met is True
    assert rows[what + 'layers 0.5'][1] is False
    assert rows['selection of 100,000 filters in 1,000 layers, of an SGD step'][1] is True


def test_what_is_missing_is_left_out():
    assert targets_met({}) == []


@pytest.mark.parametrize('clock', ['training step', 'processor'])
def test_table_says_what_is_not_settled(clock, capsys):
    clear, vague = Ratio(0.9, 0.88, 0.92), Ratio(0.99, 0.96, 1.02)
    ratios = (vague, clear) if clock == 'training step' else (clear, vague)
    print_tables(dict(networks={'a': network('a', *ratios)}), Console(width=200))
    printed = capsys.readouterr().out
    # Once for each arm but the baseline, and once below the table.
    assert printed.count('not settled') == 2 + 1
    for words in ('threads: 2', '800.0', '1600.0', '20.0%', '1.4%  (1.0% to 3.0%)', '12.00'):
        assert words in printed


def test_operations_have_a_table(capsys):
    ratio = Ratio(0.9, 0.88, 0.92)
    counts = {'forward and backward': 1234, 'optimizer step': 50}
    one = dict(network('a', ratio), operations={'baseline': counts, 'layers 0.5': counts})
    print_tables(dict(networks={'a': one}), Console(width=200))
    printed = capsys.readouterr().out
    for words in ('a: operations in a training step', '1234', '1284', '+0'):
        assert words in printed


def test_memory_is_in_mib(capsys):
    of_arm = {'optimizer step': 12.34, 'training step': 5.6, 'held slices': 1.0}
    arms = ('baseline', 'weight 0.5', 'state 0.5', 'filters 0.5', 'layers 0.5')
    results = dict(memory=dict.fromkeys(arms, of_arm))
    print_tables(results, Console(width=200))
    assert capsys.readouterr().out.count('12.3') == 5
    assert [met for *_, met in targets_met(results)] == [True, True, True, False]
