import re
import sys

import pytest
from detection import ROOT, free_port, run

from mmwau.wau import HOLDS, SAMPLERS

ARMS = [f'{sampler} {hold}' for sampler in SAMPLERS for hold in HOLDS]
ARMS += ['accumulation', 'seed None', 'seed of each rank', 'seed given by each rank', 'unused']
ARMS += [f'zero {hold}' for hold in HOLDS]


@pytest.fixture(scope='module')
def said(tmp_path_factory):
    """What two processes said of each arm: whether they end equal, and how many filters moved."""
    place = tmp_path_factory.mktemp('processes')
    script = ROOT / 'tests' / 'helpers' / 'two_processes.py'
    launch = ['-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={free_port()}']
    done = run([sys.executable, *launch, script, place], place)
    assert done.returncode == 0, done.stdout[-5000:]
    lines = re.findall(r'^(?:ARM|SENT|SKIP|HOOK|TWICE) \| .*$', done.stdout, re.MULTILINE)
    said = {}
    for kind, name, *rest in (line.split(' | ') for line in lines):
        said[f'{kind} {name}' if kind != 'ARM' else name] = rest
    return said


@pytest.mark.slow
@pytest.mark.parametrize('arm', ARMS)
def test_processes_end_with_the_same_bits_of_weights_and_state(said, arm):
    difference, moved = said[arm]
    assert difference == 'equal'
    counts = [int(count) for count in re.findall(r'\d+', moved)]
    assert len(counts) == 4
    if arm == 'accumulation':
        assert counts == [0, 3, 0, 3]
    elif arm.endswith('grad'):  # momentum and weight decay move what is held
        assert counts == [6, 6, 6, 6]
    elif arm.startswith(('uniform', 'cyclic', 'zero', 'seed', 'unused')):
        assert counts == [3, 3, 3, 3]
    else:
        assert all(1 <= count <= (6 if 'bernoulli' in arm else 5) for count in counts)


@pytest.mark.slow
@pytest.mark.parametrize('hold', HOLDS)
def test_zero_redundancy_optimizer_ends_as_its_inner_optimizer_does(said, hold):
    assert said[f'zero {hold} beside one optimizer'][0] == 'equal'


# Of 3,024 bytes of gradients of the held layers (8x4x3x3 weights, 6x8 weights, 6 biases) half,
# and all of the others.
HELD = 4 * (8 * 4 * 9 + 6 * 8 + 6)
OTHERS = 4 * (2 * 8 + 6 + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('arm', 'others'),
    [
        ('state', OTHERS),
        ('in', OTHERS + 4 * 6 / 2),
        ('grad', OTHERS),
        ('dense', OTHERS),
        ('accumulation', OTHERS),
        ('clipped', OTHERS),
        ('unused', OTHERS + 4 * (2 * 4 + 4) / 2),
        ('buckets', OTHERS),
        ('views', OTHERS),
        ('static', OTHERS),
        ('last', OTHERS),
    ],
)
def test_sending_only_active_slices_trains_with_the_same_bits_and_sends_half(said, arm, others):
    same, sent = said[f'SENT send {arm}']
    assert same == 'equal'
    assert float(sent) * 1e6 == pytest.approx(HELD / 2 + others)
    for sends in ('all', 'active'):
        assert said[f'send {arm} {sends}'][0] == 'equal'


LAYER_ARMS = ['', ' dense', ' grad', ' accumulation', ' unused', ' buckets', ' views', ' static']
LAYER_ARMS += [' number']


@pytest.mark.slow
@pytest.mark.parametrize('arm', LAYER_ARMS)
def test_whole_layers_that_are_held_are_not_sent(said, arm):
    same, sent = said[f'SENT send layer{arm}']
    assert same == 'equal'
    if arm not in (' unused', ' number'):
        # The least is sent where the larger of two layers, the one before the neck, is held.
        assert float(sent) * 1e6 == pytest.approx(OTHERS + 4 * (6 * 8 + 6))
    for sends in ('all', 'active'):
        assert said[f'send layer{arm} {sends}'][0] == 'equal'


@pytest.mark.slow
def test_processes_that_skip_train_as_those_that_do_not(said):
    assert said['SKIP state'] == ['True']
    assert said['SKIP layer'] == ['True']


@pytest.mark.slow
@pytest.mark.parametrize(('hook', 'size'), [('plain', 4), ('fp16', 2)])
def test_hook_averages_active_slices_and_zeroes_held_ones(said, hook, size):
    dense = 3 * 8 * 9 + 8 + 8 * 4 * 9
    assert said[f'HOOK {hook}'] == ['True', 'True', str(size * dense // 2)]


@pytest.mark.slow
def test_a_second_communication_hook_is_refused(said):
    (words,) = [name for name in said if name.startswith('TWICE')]
    assert 'has a communication hook already and takes only one' in words
    assert 'fp16_compress_wrapper around mmwau.traffic.all_reduce_active' in words
