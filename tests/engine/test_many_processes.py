"""Four and eight processes end alike, and as one; where one dies all end, and the reason is told.

torch.multiprocessing starts them, or the script that users have.
"""

import json
import re
from datetime import timedelta

import pytest
from detection import ROOT, free_port, run
from many_processes import READINGS, SENDING, train_all, train_and_die
from mmengine.config import Config
from torch import multiprocessing
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from mmwau.scripts import launch

SIZES = (4, 8)
ARMS = [*READINGS, *(f'{name} sends' for name in SENDING)]
# What a process sends in an update where it sends all: 558 numbers of 8 bytes.
ALL = 8 * (8 * 3 * 9 + 8 + 6 * 8 * 9 + 8 * 6 + 8)


def start(function, number, *arguments):
    multiprocessing.start_processes(function, arguments, number, start_method='forkserver')


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """What each of eight processes found of each arm."""
    folder = tmp_path_factory.mktemp('many')
    start(train_all, 8, str(folder))
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize('arm', ARMS)
@pytest.mark.parametrize('size', SIZES)
def test_processes_end_with_the_same_bits_and_as_one(found, size, arm):
    for same, distance, sent in (of_rank[f'{size} {arm}'] for of_rank in found):
        assert same
        # In double precision; the sums of gradients have another order.
        assert distance < 1e-13
        assert 0 < sent < ALL if arm.endswith('sends') else sent == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ('how', 'error', 'reason'),
    [
        ('killed', ProcessExitedException, 'process 1 terminated with signal SIGKILL'),
        ('raised', ProcessRaisedException, 'ValueError: the reason'),
    ],
)
def test_one_that_dies_ends_those_of_torch(tmp_path, how, error, reason):
    with pytest.raises(error, match=reason) as told:
        start(train_and_die, 3, str(tmp_path), how)
    assert told.value.error_index == 1
    assert not multiprocessing.active_children()


CONFIG = """
custom_imports = dict(imports=['mmwau', 'dying'], allow_failed_imports=False)
model = dict(type='SmallModel')
work_dir = 'work'
train_dataloader = dict(
    dataset=dict(type='SmallData'), batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='default_collate'))
train_cfg = dict(by_epoch=True, max_epochs=9)
optim_wrapper = dict(
    type='WAUOptimWrapper', hold='state', optimizer=dict(type='SGD', lr=0.01))
custom_hooks = [dict(type='WAUHook', send_active_only=True), dict(type='Die', rank=1, how=None)]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ('how', 'status', 'reason'),
    [
        ('killed', -9, 'Signal 9 (SIGKILL) received'),
        ('raised', 1, '[rank1]: ValueError: the reason'),
    ],
)
def test_one_that_dies_ends_those_of_the_script(tmp_path, how, status, reason):
    (tmp_path / 'config.py').write_text(CONFIG)
    command = ['bash', ROOT / 'tools/dist_train.sh', 'config.py', 2, '--cfg-options']
    paths = f'{ROOT}:{ROOT / "tests" / "helpers"}'
    done = run(
        [*command, f'custom_hooks.1.how={how}'], tmp_path, PORT=free_port(), PYTHONPATH=paths
    )
    assert done.returncode == 1
    assert reason in done.stdout
    cause = done.stdout.partition('Root Cause (first observed failure)')[2]
    assert re.search(rf'rank      : 1 .*\n  exitcode  : {status} ', cause), done.stdout


def test_processes_on_cpus_wait_as_long_as_the_config_says(monkeypatch):
    waits = []

    def init_nothing(backend, timeout):
        waits.append((backend, timeout))
        raise InterruptedError

    monkeypatch.setattr(launch, 'get_device', lambda: 'cpu')
    monkeypatch.setattr(launch.distributed, 'init_process_group', init_nothing)
    for env in ({}, dict(env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=20)))):
        with pytest.raises(InterruptedError):
            launch.build_runner(Config(dict(launcher='pytorch', **env)))
    assert waits == [('gloo', None), ('gloo', timedelta(seconds=20))]
