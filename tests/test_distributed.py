import re
import sys
from pathlib import Path

import pytest
from detection import free_port, run

from mmwau.wau import HOLDS, SAMPLERS

ARMS = [f'{sampler} {hold}' for sampler in SAMPLERS for hold in HOLDS]
ARMS += ['accumulation', 'seed None', 'unused', *(f'zero {hold}' for hold in HOLDS)]


@pytest.fixture(scope='module')
def said(tmp_path_factory):
    """What two processes said of each arm: whether they end equal, and how many filters moved."""
    place = tmp_path_factory.mktemp('processes')
    script = Path(__file__).parent / 'two_processes.py'
    launch = ['-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={free_port()}']
    done = run([sys.executable, *launch, script, place], place)
    assert done.returncode == 0, done.stdout[-5000:]
    lines = re.findall(r'^ARM \| (.*?) \| (.*?)(?: \| (.*))?$', done.stdout, re.MULTILINE)
    return {name: (difference, moved) for name, difference, moved in lines}


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
