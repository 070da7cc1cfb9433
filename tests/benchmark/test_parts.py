"""The parts of WAU are timed where they happen, and mmwau is as before afterwards."""

from functools import partial

import pytest
import torch
from small_network import small_network

from mmwau import wau
from mmwau.benchmark import parts
from mmwau.benchmark.arms import BASELINE, BenchmarkTrainer
from mmwau.benchmark.memory import extra_memory
from mmwau.benchmark.parts import AFTER, AROUND_STEP, BEFORE, FUNCTIONS, GATHERS, PARTS, Stopwatch
from mmwau.benchmark.rounds import FEWEST
from mmwau.benchmark.steps import TimedConvolution, can_be_timed, threads, weight_gradient_share


def functions():
    return [vars(owner)[name] for owner, name, _ in FUNCTIONS] + [
        vars(wau)[name] for name in AROUND_STEP
    ]


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by one second each time somebody looks at it."""
    seconds = iter(range(10**9))
    monkeypatch.setattr(parts, 'now', lambda device: float(next(seconds)))


def test_a_part_inside_of_another_one_counts_once(clock):
    stopwatch = Stopwatch(torch.device('cpu'))
    with stopwatch.time(BEFORE):  # 0
        with stopwatch.time(GATHERS):  # 1 to 2
            pass
        with stopwatch.time(GATHERS), stopwatch.time(AFTER):  # 3 to 6, 4 to 5
            pass
    assert (stopwatch.seconds[BEFORE], stopwatch.seconds[GATHERS]) == (3, 3)
    assert stopwatch.seconds[AFTER] == 1
    assert sum(stopwatch.seconds.values()) == 7


@pytest.mark.parametrize(
    ('arm', 'happens'),
    [
        ('weight 0.5', {*PARTS} - {GATHERS}),
        ('filters 0.5', {*PARTS}),
        ('layers 0.5', {*PARTS} - {GATHERS}),
        (BASELINE, set()),
    ],
)
def test_parts_are_those_of_the_arm(arm, happens, clock):
    before = functions()
    trainers = [BenchmarkTrainer(arm, small_network()) for _ in range(2)]
    with parts.timed_parts(torch.device('cpu')) as seconds:
        trainers[0].step()
    assert {part for part, value in seconds.items() if value} == happens
    assert functions() == before
    # Timers change nothing of what is trained.
    trainers[1].step()
    for one, other in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        assert torch.equal(one, other)


def test_timers_are_taken_away_where_a_step_fails():
    before = functions()

    def fail():
        with parts.timed_parts(torch.device('cpu')):
            assert functions() != before
            raise RuntimeError('no data')

    with pytest.raises(RuntimeError, match='no data'):
        fail()
    assert functions() == before


def test_parts_are_summed_as_a_share_of_the_baselines_step(monkeypatch):
    ticks = []
    monkeypatch.setattr(parts, 'now', lambda device: float(len(ticks)))
    found = parts.time_parts(
        small_network(), [BASELINE, 'weight 0.5', "authors' loop"], FEWEST, lambda: ticks.append(1)
    )
    assert list(found) == ['weight 0.5']
    assert set(found['weight 0.5']['seconds']) == {*PARTS}
    assert found['weight 0.5']['share'] == (0, 0, 0)


def test_share_of_weight_gradients_leaves_the_gradients_right():
    network = small_network()
    share = weight_gradient_share(network, FEWEST, lambda: None)
    assert 0 < share.low <= share.median <= share.high < 1
    trainer = BenchmarkTrainer(BASELINE, network)
    seconds = []
    trainer.model[2]._conv_forward = partial(TimedConvolution.apply, trainer.model[2], seconds)
    trainer.loss(trainer.model).backward()
    network.loss(network.model).backward()
    torch.testing.assert_close(trainer.model[2].weight.grad, network.model[2].weight.grad)
    assert len(seconds) == 1


def test_weight_gradients_of_grouped_convolutions_are_timed_too():
    plain, timed = torch.nn.Conv2d(4, 8, 3, groups=2, padding=1), []
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    plain(x).square().sum().backward()
    expected = [x.grad, plain.weight.grad, plain.bias.grad]
    x.grad = plain.weight.grad = plain.bias.grad = None
    assert can_be_timed(plain)
    plain._conv_forward = partial(TimedConvolution.apply, plain, timed)
    plain(x).square().sum().backward()
    for one, other in zip([x.grad, plain.weight.grad, plain.bias.grad], expected, strict=True):
        torch.testing.assert_close(one, other)
    assert len(timed) == 1
    assert not can_be_timed(torch.nn.Conv2d(4, 4, 3, padding='same'))
    assert not can_be_timed(torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode='reflect'))


def test_threads_are_back_afterwards():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_memory_is_that_of_the_held_slices():
    extra = extra_memory(
        small_network(), ['baseline', 'weight 0.5', 'state 0.5', 'filters 0.5', 'layer freezing']
    )
    assert extra['baseline']['optimizer step'] == 0
    assert extra['weight 0.5']['held slices'] == pytest.approx(1, abs=0.1)
    assert extra['state 0.5']['held slices'] == pytest.approx(2, abs=0.1)
    # The layer with 64 filters is too small to skip.
    assert extra['filters 0.5']['held slices'] <= 1.1
    weights = 4 * (64 * 27 + 256 * 64 * 9) / 2**20
    assert extra['weight 0.5']['optimizer step'] == pytest.approx(weights / 2, rel=0.1)
    assert extra['layer freezing']['held slices'] is None
