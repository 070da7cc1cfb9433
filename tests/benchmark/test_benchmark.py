"""The benchmark measures what it says; no test looks at a time."""

import io
import json
import logging
import runpy
import sys
from pathlib import Path

import psutil
import pytest
import torch
from detection import run
from torch import nn

from mmwau.benchmark import busy, measure
from mmwau.benchmark.arms import ARMS, PHASES, NaiveSGD, Trainer
from mmwau.benchmark.bytes_sent import bytes_sent
from mmwau.benchmark.measure import Ratio
from mmwau.benchmark.networks import Network, build_network
from mmwau.benchmark.report import targets_met

SCRIPT = Path(__file__).parents[2] / 'tools' / 'benchmark.py'


def small_network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 256, 3, bias=False))
    x = torch.randn(2, 3, 8, 8)
    return Network(model, lambda model: model(x).square().mean(), ('',), 'small')


def test_busy_processes_run_beside_the_steps_and_end_with_them(monkeypatch):
    monkeypatch.setattr(busy, 'BUSY', (0, 2))
    # In the place of training: the spin count, and how many other children the parent has.
    monkeypatch.setattr(busy, 'STEPS', (
        'import json, os, psutil; parent = psutil.Process(os.getppid()); '
        'print(json.dumps([int(os.environ["GOMP_SPINCOUNT"]) + len(parent.children()) - 1]))'
    ))  # fmt: skip
    monkeypatch.setenv('OMP_WAIT_POLICY', 'passive')
    ticks, before = [], psutil.Process().children()
    found = busy.time_beside_busy_processes(3, lambda: ticks.append(1))
    others = len(before)
    assert found == {
        '0': {'300000': 300000 + others, '1000': 1000 + others},
        '2': {'300000': 300002 + others, '1000': 1002 + others},
    }
    assert len(ticks) == 12
    assert psutil.Process().children() == before


def test_busy_table_has_the_ratio():
    rows = busy.rows_of({'1': {'300000': 0.8, '1000': 0.2}})
    assert rows == [('1', '800', '200', '0.25')]


def test_ratios_are_taken_within_a_round():
    assert measure.ratio_to([1, 10, 100], [2, 10, 50]) == Ratio(1.0, 0.75, 1.5)


def test_every_arm_runs_once_in_each_round_in_random_order_after_warming_up():
    calls = []

    def arm(name):
        def run_once():
            calls.append(name)
            return {'training step': len(calls)}

        return run_once

    ticks = []
    times = measure.interleave({'a': arm('a'), 'b': arm('b')}, 20, lambda: ticks.append(1))
    rounds = [tuple(calls[place : place + 2]) for place in range(0, len(calls), 2)]
    assert len(rounds) == 20 + measure.WARM_UP
    assert set(rounds) == {('a', 'b'), ('b', 'a')}
    assert len(ticks) == len(calls)
    assert [len(of_arm) for of_arm in times.values()] == [20, 20]


@pytest.mark.parametrize('arm', ARMS)
def test_every_arm_trains_from_the_same_start_and_holds_what_it_says(arm):
    network = small_network()
    trainer = Trainer(arm, network, 0.5)
    seconds = trainer.step()
    assert set(seconds) == {*PHASES, 'training step'}
    assert seconds['training step'] == pytest.approx(sum(seconds[phase] for phase in PHASES))
    moved = trainer.model[2].weight.ne(network.model[2].weight).flatten(1).any(dim=1).sum()
    # Under 'grad' weight decay moves what is held.
    assert moved == (256 if arm in ('baseline', 'grad, skipping') else 128)


def test_naive_loop_at_ratio_1_is_sgd():
    models = [small_network().model for _ in range(2)]
    weight = models[0][2].weight
    optimizers = [
        NaiveSGD(models[0].parameters(), {weight: 0}, 1.0),
        torch.optim.SGD(models[1].parameters(), **measure.SGD_OPTIONS),
    ]
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.ones(1, 3, 8, 8)).square().mean().backward()
            optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_share_of_held_gradients_leaves_the_gradients_right():
    network = small_network()
    share = measure.held_gradient_share(network, 0.25, rounds=2)
    assert 0 < share < 0.75
    trainer = Trainer('baseline', network, 0.5)
    seconds = []
    trainer.model[2]._conv_forward = measure._TimedConvolution(trainer.model[2], seconds)
    trainer.loss(trainer.model).backward()
    network.loss(network.model).backward()
    torch.testing.assert_close(trainer.model[2].weight.grad, network.model[2].weight.grad)
    assert len(seconds) == 1


def test_memory_is_that_of_the_held_slices():
    extra = measure.extra_memory(
        small_network(), ['baseline', 'weight', 'state', 'state, skipping'], 0.5
    )
    assert extra['baseline']['optimizer step'] == 0
    assert extra['weight']['optimizer step'] == pytest.approx(1, abs=0.1)
    assert extra['state']['optimizer step'] == pytest.approx(2, abs=0.1)
    # The layer with 64 filters is too small to skip.
    assert extra['state, skipping']['optimizer step'] <= 1.1


@pytest.mark.slow
@pytest.mark.parametrize('ratio', [0.5, 0.25])
def test_two_processes_send_only_active_slices(ratio):
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 4, 1))
    sent = bytes_sent(model, 8, ratio)
    assert sent['held layers'] == pytest.approx(ratio)
    if 'wire' in sent:  # with what the processes say beside gradients
        assert sent['wire'] == pytest.approx(ratio, abs=0.1)


def test_an_unknown_network_is_reported():
    with pytest.raises(ValueError, match=r"networks must be some of resnet50, .*got 'vgg'"):
        build_network('vgg', torch.device('cpu'))


def test_targets_are_judged_by_the_median():
    step = dict(ratios={'training step': Ratio(0.91, 0.85, 0.95)})
    results = dict(
        networks={'': dict(name='resnet50', update_ratio=0.5, ceiling=0.15, data='',
                           arms={'state, skipping': step})},
        selection=Ratio(0.04, 0.03, 0.06),
    )  # fmt: skip
    rows = {what: (measured, met) for what, _, measured, met in targets_met(results)}
    measured, met = rows['training step, resnet50, ratio 0.5, skipping']
    assert measured == '0.910  (0.850 to 0.950)'
    assert met is False
    measured, met = rows['saved of the ceiling of 0.150, resnet50, ratio 0.5']
    assert measured.startswith('60%')
    assert met is None
    assert rows['selection of 100,000 filters in 1,000 layers, of an SGD step'][1] is True


@pytest.mark.slow
def test_script_prints_the_table_and_writes_json_and_picture(tmp_path):
    done = run(
        [sys.executable, SCRIPT, '--quick', '--rounds', '2', '--networks',
         'resnet56_cifar10', '--sections', 'convolution', 'selection', 'networks',
         '--update-ratio', '0.25', '--work-dir', 'results [v1]'],
        tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    for words in ('128 channels', '100,000 filters', 'ratio 0.25', 'state, skipping', '≤ 0.78'):
        assert words in done.stdout
    assert 'Everything measured: results [v1]/benchmark.json\n' in done.stdout
    assert 'Picture: results [v1]/benchmark.png\n' in done.stdout
    results = json.loads((tmp_path / 'results [v1]/benchmark.json').read_text())
    assert set(results) == {'machine', 'arguments', 'convolution', 'selection', 'networks'}
    arms = results['networks']['resnet56_cifar10 0.25']['arms']
    assert set(arms) == {'baseline', 'weight', 'state, skipping'}
    assert arms['baseline']['ratios']['training step'] == [1, 1, 1]
    assert (tmp_path / 'results [v1]/benchmark.png').stat().st_size > 10_000


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--update-ratio', '0'], '--update-ratio must be in (0, 1), got 0.0'),
        (['--update-ratio', '1'], 'got 1.0: at 1 nothing is held, and all arms equal the baseline'),
        (['--update-ratio', 'nan'], '--update-ratio must be in (0, 1), got nan'),
        (['--rounds', '1'], '--rounds must be at least 2, got 1'),
        (['--networks', 'vgg'], "invalid choice: 'vgg'"),
    ],
)
def test_wrong_options_are_reported(monkeypatch, capsys, options, words):
    monkeypatch.setattr(sys, 'argv', [str(SCRIPT), *options])
    with pytest.raises(SystemExit, match='2'):
        runpy.run_path(str(SCRIPT), run_name='__main__')
    assert words in ' '.join(capsys.readouterr().err.split())


class Full(io.StringIO):
    """Takes the progress, and no table."""

    def write(self, text):
        if 'target' in text:
            raise OSError('No space left on device')
        return super().write(text)


def test_what_was_measured_is_kept_where_nothing_can_be_printed(tmp_path, monkeypatch):
    arguments = ['--quick', '--sections', 'selection', '--work-dir', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', [str(SCRIPT), *arguments])
    monkeypatch.setattr(logging.root.manager, 'disable', logging.root.manager.disable)
    monkeypatch.setattr(sys, 'stdout', Full())
    with pytest.raises(OSError, match='No space left'):
        runpy.run_path(str(SCRIPT), run_name='__main__')
    results = json.loads((tmp_path / 'benchmark.json').read_text())
    assert results['arguments']['sections'] == ['selection']
