import errno
import resource
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from detection import run
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from small import small_runner

from mmwau.checkpoint import AtomicLocalBackend, write_whole_files


@pytest.fixture
def whole_files():
    write_whole_files()
    yield
    register_backend('local', LocalBackend, force=True, prefixes='')


@contextmanager
def full_disk():
    """Gives a function after which no file can grow beyond so many bytes, until the block ends.

    It must end within the test: what pytest prints may go to a file too.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def files(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_writes_and_writes_over(tmp_path):
    path = tmp_path / 'new' / 'file'
    AtomicLocalBackend().put(b'one', path)
    AtomicLocalBackend().put(b'two', str(path))
    assert path.read_bytes() == b'two'
    assert files(path.parent) == ['file']


def test_full_disk_is_told_and_what_was_there_stays(tmp_path):
    path = tmp_path / 'file'
    AtomicLocalBackend().put(b'good', path)
    told = pytest.raises(OSError, match=r'could not write 3.0 MiB to .*file \(.* MiB are free')
    with full_disk() as fill, told as e:
        fill(2**20)
        AtomicLocalBackend().put(bytes(3 * 2**20), path)
    assert e.value.errno == errno.EFBIG
    assert path.read_bytes() == b'good'
    assert files(tmp_path) == ['file']


@pytest.mark.parametrize('place', ['taken/file', 'taken/new/file'])
def test_a_file_in_the_place_of_a_folder_is_told(tmp_path, place):
    (tmp_path / 'taken').write_bytes(b'good')
    with pytest.raises(OSError, match=r'could not write .*/file \(.* mend the folder, then go on'):
        AtomicLocalBackend().put(b'two', tmp_path / place)
    assert (tmp_path / 'taken').read_bytes() == b'good'
    assert files(tmp_path) == ['taken']


def test_training_on_a_full_disk_keeps_the_good_checkpoint(tmp_path, whole_files):
    wrapper = dict(type='WAUOptimWrapper')
    small_runner(tmp_path, wrapper, max_epochs=1).train()

    class FillDisk(Hook):
        def before_save_checkpoint(self, runner, checkpoint):
            self.fill(2**12)

    hook = FillDisk()
    runner = small_runner(tmp_path, wrapper, [hook], max_epochs=2, resume=True)
    told = pytest.raises(OSError, match=r'could not write .*epoch_2.pth .*go on .*--resume')
    with full_disk() as hook.fill, told:
        runner.train()
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    assert [name for name in files(tmp_path) if 'epoch' in name] == ['epoch_1.pth']
    assert 'state_dict' in torch.load(tmp_path / 'epoch_1.pth', weights_only=False)


LAST = {'epoch': 'epoch_4.pth', 'iter': 'iter_12.pth'}


def train(work_dir, kind, when='never'):
    command = [sys.executable, Path(__file__).parent / 'killed.py', work_dir, kind, when]
    return run(command, work_dir.parent)


@pytest.fixture(scope='module', params=['epoch', 'iter'])
def whole(request, tmp_path_factory):
    """What a training that is never killed ends with, and its kind."""
    work_dir = tmp_path_factory.mktemp(request.param) / 'whole'
    done = train(work_dir, request.param)
    assert done.returncode == 0, done.stdout
    return torch.load(work_dir / LAST[request.param], weights_only=False), request.param


@pytest.mark.slow
@pytest.mark.parametrize('when', ['iteration', 'saving'])
def test_killed_training_resumes_to_the_same_bits(tmp_path, whole, when):
    end, kind = whole
    work_dir = tmp_path / 'killed'
    assert train(work_dir, kind, when).returncode == -signal.SIGKILL
    good = (work_dir / 'last_checkpoint').read_text()
    torch.load(good, weights_only=False)
    unfinished = [name for name in files(work_dir) if name.endswith('.unfinished')]
    assert len(unfinished) == (when == 'saving')
    resumed = train(work_dir, kind)
    assert not [name for name in files(work_dir) if name.endswith('.unfinished')]
    assert resumed.returncode == 0, resumed.stdout
    assert f'Load checkpoint from {good}' in resumed.stdout
    resumed_end = torch.load(work_dir / LAST[kind], weights_only=False)
    for name, value in end['state_dict'].items():
        assert torch.equal(value, resumed_end['state_dict'][name]), name
    for index, state in end['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(value, resumed_end['optimizer']['state'][index][key])
