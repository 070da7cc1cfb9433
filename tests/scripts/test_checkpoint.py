import errno
import resource
import runpy
import shutil
import signal
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest
import torch
from detection import ROOT, run_python
from hooks import scalars
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader
from safetensors.torch import save_file
from small import SmallData, SmallModel, small_runner

from mmwau.engine.resume import SCALARS
from mmwau.files.weights_file import read_checkpoint
from mmwau.scripts.checkpoint import (
    AtomicLocalBackend,
    ResumeHook,
    find_last,
    read_safely,
    write_whole_files,
)


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


def test_full_disk_is_reported_and_what_was_there_stays(tmp_path):
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
def test_a_file_in_the_place_of_a_folder_is_reported(tmp_path, place):
    (tmp_path / 'taken').write_bytes(b'good')
    with pytest.raises(OSError, match=r'could not write .*/file \(.* repair the folder, then'):
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


def train(work_dir, kind, axis, when='never'):
    script = ROOT / 'tests' / 'helpers' / 'killed.py'
    return run_python(script, work_dir, kind, axis, when, cwd=work_dir.parent)


@pytest.fixture(scope='module', params=[('epoch', 'out'), ('iter', 'layer')], ids='-'.join)
def whole(request, tmp_path_factory):
    """What a training that is never killed ends with, its kind and its axis."""
    kind, axis = request.param
    work_dir = tmp_path_factory.mktemp(kind) / 'whole'
    done = train(work_dir, kind, axis)
    assert done.returncode == 0, done.stdout
    return torch.load(work_dir / LAST[kind], weights_only=False), kind, axis


@pytest.mark.slow
@pytest.mark.parametrize('when', ['iteration', 'saving'])
def test_killed_training_resumes_to_the_same_bits(tmp_path, whole, when):
    end, kind, axis = whole
    work_dir = tmp_path / 'killed'
    assert train(work_dir, kind, axis, when).returncode == -signal.SIGKILL
    good = (work_dir / 'last_checkpoint').read_text()
    torch.load(good, weights_only=False)
    unfinished = [name for name in files(work_dir) if name.endswith('.unfinished')]
    assert len(unfinished) == (when == 'saving')
    resumed = train(work_dir, kind, axis)
    assert not [name for name in files(work_dir) if name.endswith('.unfinished')]
    assert resumed.returncode == 0, resumed.stdout
    assert f'Load checkpoint from {good}' in resumed.stdout
    resumed_end = torch.load(work_dir / LAST[kind], weights_only=False)
    for name, value in end['state_dict'].items():
        assert torch.equal(value, resumed_end['state_dict'][name]), name
    for index, state in end['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(value, resumed_end['optimizer']['state'][index][key])


def run_of(work_dir, named, *checkpoints, **hook):
    """The config of a run, and in its work_dir what MMEngine writes at a checkpoint."""
    for place in checkpoints:
        (work_dir / place).parent.mkdir(parents=True, exist_ok=True)
        (work_dir / place).touch()
    work_dir.mkdir(exist_ok=True)
    (work_dir / 'last_checkpoint').write_text(str(named))
    return Config(dict(work_dir=str(work_dir), default_hooks=dict(checkpoint=hook)))


@pytest.mark.parametrize('place', ['epoch_3.pth', 'checkpoints/run/epoch_3.pth'])
def test_the_last_checkpoint_is_that_of_the_work_dir(tmp_path, place):
    before = tmp_path / 'before'
    cfg = run_of(before, before / place, place)
    assert find_last(cfg) == str(before / place)
    shutil.copytree(before, tmp_path / 'copy')
    copy = Config(dict(work_dir=str(tmp_path / 'copy')))
    assert find_last(copy) == str(tmp_path / 'copy' / place)
    before.rename(tmp_path / 'after')
    assert find_last(Config(dict(work_dir=str(tmp_path / 'after')))) == str(
        tmp_path / 'after' / place
    )


def test_the_last_checkpoint_may_be_named_by_hand(tmp_path):
    cfg = run_of(tmp_path / 'a', 'epoch_1.pth', 'epoch_1.pth', 'epoch_2.pth')
    assert find_last(cfg) == str(tmp_path / 'a/epoch_1.pth')


def test_a_copy_without_the_checkpoint_does_not_go_on_from_the_original(tmp_path):
    run_of(tmp_path / 'a', tmp_path / 'a/epoch_3.pth', 'epoch_3.pth')
    copy = run_of(tmp_path / 'b', tmp_path / 'a/epoch_3.pth', 'epoch_1.pth')
    told = r'b/last_checkpoint names .*a/epoch_3.pth, and .*b has no .* in it: epoch_1.pth'
    with pytest.raises(FileNotFoundError, match=told):
        find_last(copy)


def test_the_last_checkpoint_may_be_in_another_folder_that_the_config_names(tmp_path):
    for named in (tmp_path / 'out/run/epoch_1.pth', 's3://bucket/run/epoch_1.pth'):
        cfg = run_of(tmp_path / 'run', named, out_dir='out')
        assert find_last(cfg) == str(named)


def test_nothing_is_named_where_nothing_was_saved(tmp_path):
    assert find_last(Config(dict(work_dir=str(tmp_path)))) is None


@pytest.mark.parametrize('name', ['epoch_3.pth', 'iter_500.pth'])
def test_checkpoints_that_nothing_names_are_not_written_over(tmp_path, name):
    cfg = run_of(tmp_path, '', name)
    (tmp_path / 'last_checkpoint').unlink()
    told = f'last_checkpoint does not exist: training would start .* of those in it: {name}'
    with pytest.raises(FileNotFoundError, match=told):
        find_last(cfg)


class Rising(BaseMetric):
    """A metric that is better each time it is asked for, in all runs."""

    values = count(1)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'rising': next(self.values)}


def best_runner(work_dir, max_epochs, **options):
    loader = dict(
        dataset=SmallData(),
        batch_size=4,
        sampler=dict(type='DefaultSampler'),
        collate_fn=dict(type='default_collate'),
    )
    saving = dict(type='CheckpointHook', interval=1, save_best='rising', rule='greater')
    return small_runner(
        work_dir,
        dict(type='WAUOptimWrapper'),
        [ResumeHook()],
        max_epochs=max_epochs,
        checkpoint=saving,
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=Evaluator(Rising()),
        **options,
    )


def test_a_copy_that_resumes_leaves_the_best_checkpoint_of_the_original_alone(tmp_path):
    best_runner(tmp_path / 'a', 1).train()
    assert 'best_rising_epoch_1.pth' in files(tmp_path / 'a')
    before = files(tmp_path / 'a')
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    start = str(tmp_path / 'b/epoch_1.pth')
    best_runner(tmp_path / 'b', 2, load_from=start, resume=True).train()
    assert files(tmp_path / 'a') == before
    best = [name for name in files(tmp_path / 'b') if name.startswith('best')]
    assert best == ['best_rising_epoch_2.pth']


def test_what_a_checkpoint_lacks_to_resume_is_logged(tmp_path):
    saving = dict(
        type='CheckpointHook', interval=1, save_optimizer=False, save_param_scheduler=False
    )
    schedule = dict(type='MultiStepLR', milestones=[1])
    options = dict(checkpoint=saving, param_scheduler=schedule)
    wrapper = dict(type='OptimWrapper')
    small_runner(tmp_path, wrapper, max_epochs=1, **options).train()
    runner = small_runner(tmp_path, wrapper, [ResumeHook()], max_epochs=2, resume=True, **options)
    runner.train()
    log = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert log.count('WARNING - The checkpoint has no state of the optimizer (save_opt') == 1
    assert log.count('no state of the parameter schedulers (save_param_scheduler=False)') == 1
    # A file of only weights, to start from, lacks nothing.
    start = str(tmp_path / 'epoch_1.pth')
    small_runner(tmp_path / 'b', wrapper, [ResumeHook()], 1, load_from=start, **options).train()
    assert 'has no state' not in next((tmp_path / 'b').glob('*/*.log')).read_text()


def log_of(folder):
    return next(folder.glob('*/*.log')).read_text()


def test_a_resume_without_wau_is_logged_once(tmp_path):
    wrappers = [dict(type=f'{wau}OptimWrapper') for wau in ('WAU', '', '')]
    said = 'WARNING - WAU: the run was trained with WAU until here and goes on without it'
    start = {}
    for epoch, wrapper in enumerate(wrappers, start=1):
        folder = tmp_path / str(epoch)
        small_runner(folder, wrapper, [ResumeHook()], epoch, **start).train()
        assert log_of(folder).count(said) == (epoch == 2)
        start = dict(load_from=str(folder / f'epoch_{epoch}.pth'), resume=True)


LAYERS = dict(type='WAUOptimWrapper', axis='layer')
SCHEDULE = dict(type='constant', ratio=1)


@pytest.mark.parametrize(
    ('wrapper', 'hook', 'logged'),
    [
        ('OptimWrapper', None, set()),
        ('OptimWrapper', dict(type='OverlapHook'), set()),
        ('OptimWrapper', dict(type='OverlapHook', movement=True), {'path_length', 'displacement'}),
        ('WAUOptimWrapper', dict(type='WAUHook'), {'active_fraction'}),
        (
            'WAUOptimWrapper',
            dict(type='WAUHook', ratio_schedule=SCHEDULE),
            {'active_fraction', 'update_ratio'},
        ),
    ],
)
def test_what_a_resumed_training_does_not_measure_is_not_logged(tmp_path, wrapper, hook, logged):
    """MMEngine logs the last value of all that it ever had, such as an active fraction of half."""
    before = [dict(type='WAUHook', movement=True, ratio_schedule=SCHEDULE)]
    small_runner(tmp_path / 'a', LAYERS, before, 1).train()
    known = {key for entry in scalars(tmp_path / 'a') for key in entry}
    assert set(SCALARS) - known == {'sent_mb'}
    start = dict(load_from=str(tmp_path / 'a/epoch_1.pth'), resume=True)
    hooks = [ResumeHook(), hook] if hook else [ResumeHook()]
    small_runner(tmp_path / 'b', dict(type=wrapper), hooks, 2, **start).train()
    assert [set(SCALARS) & entry.keys() for entry in scalars(tmp_path / 'b')] == [logged] * 3
    # Nor does MMEngine miss them.
    assert 'not defined in message_hub' not in log_of(tmp_path / 'b')
    start = dict(load_from=str(tmp_path / 'b/epoch_2.pth'), resume=True)
    small_runner(tmp_path / 'c', dict(type=wrapper), hooks, 3, **start).train()
    assert 'not defined in message_hub' not in log_of(tmp_path / 'c')


def test_a_resume_that_has_nothing_to_do_is_logged(tmp_path):
    wrapper = dict(type='OptimWrapper')
    small_runner(tmp_path / 'a', wrapper, max_epochs=2).train()
    start = dict(load_from=str(tmp_path / 'a' / 'epoch_2.pth'), resume=True)
    for epochs in (2, 3):
        folder = tmp_path / str(epochs)
        small_runner(folder, wrapper, [ResumeHook()], epochs, **start).train()
        assert ('Nothing is left to train' in log_of(folder)) == (epochs == 2)


@pytest.fixture
def safe_reading():
    before = dict(CheckpointLoader._schemes)
    read_safely()
    yield
    CheckpointLoader._schemes = before


def test_a_file_that_is_a_state_dict_stays_one(tmp_path, safe_reading):
    """Models of MMPreTrain read that of their teacher through MMEngine, and take it as it is."""
    path, weights = tmp_path / 'w.pth', {'a': torch.ones(2), 'b': torch.zeros(1)}
    torch.save(weights, path)
    assert list(CheckpointLoader.load_checkpoint(str(path), 'cpu')) == ['a', 'b']
    torch.save({'state_dict': weights, 'epoch': 3}, path)
    read = CheckpointLoader.load_checkpoint(str(path), 'cpu')
    assert (list(read['state_dict']), read['epoch']) == (['a', 'b'], 3)


@pytest.mark.parametrize('schedule', ['MultiStepLR', 'OneCycleLR'])
def test_training_resumes_to_the_same_bits_from_what_is_read_safely(
    tmp_path, safe_reading, schedule
):
    """Nothing of what MMEngine keeps in a checkpoint is left out."""
    keys = dict(milestones=[1]) if schedule == 'MultiStepLR' else dict(eta_max=0.1, total_steps=6)
    options = dict(
        param_scheduler=dict(type=schedule, by_epoch=schedule == 'MultiStepLR', end=9, **keys),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    wrapper, hooks = dict(type='WAUOptimWrapper'), [dict(type='WAUHook', movement=True)]
    whole = small_runner(tmp_path / 'whole', wrapper, hooks, 2, **options)
    whole.train()
    small_runner(tmp_path / 'parts', wrapper, hooks, 1, **options).train()
    path = tmp_path / 'parts/epoch_1.pth'
    assert read_checkpoint(path)[1] == []
    parts = small_runner(tmp_path / 'parts', wrapper, hooks, 2, resume=True, **options)
    parts.train()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    for runner in (whole, parts):
        losses, _ = runner.message_hub.get_scalar('train/loss').data
        assert len(losses) == 6
        assert runner.message_hub.get_scalar('train/loss').statistics('mean', 6) == pytest.approx(
            losses.mean()
        )


@pytest.mark.parametrize('form', ['safetensors', 'compiled', 'beside'])
def test_training_starts_from_weights_of_any_form(tmp_path, safe_reading, form):
    model = SmallModel()
    state = model.state_dict()
    path = tmp_path / f'w.{form}'
    if form == 'safetensors':
        save_file(state, path)
    elif form == 'compiled':
        torch.save({f'module._orig_mod.{name}': value for name, value in state.items()}, path)
    else:
        torch.save({'best_acc1': torch.tensor(0.5), 'model': state, 'x': Path()}, path)
    runner = small_runner(tmp_path, dict(type='OptimWrapper'), load_from=str(path))
    torch.nn.init.zeros_(runner.model.neck.weight)
    runner.load_or_resume()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_runner_of_the_scripts_runs_no_code_of_a_checkpoint(tmp_path, safe_reading):
    class RunsCode:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'made',)

    torch.save({'state_dict': SmallModel().state_dict(), 'x': RunsCode()}, tmp_path / 'w.pth')
    runner = small_runner(tmp_path, dict(type='OptimWrapper'), load_from=str(tmp_path / 'w.pth'))
    with suppress(ValueError):
        runner.load_or_resume()
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('settings', 'resume', 'has_last', 'expected'),
    [
        (dict(load_from='start.pth'), 'auto', False, (False, 'start.pth')),
        (dict(load_from='start.pth'), 'auto', True, (True, 'epoch_1.pth')),
        (dict(load_from='start.pth'), 'other.pth', True, (True, 'other.pth')),
        (dict(load_from='start.pth'), None, True, (False, 'start.pth')),
        (dict(load_from='start.pth', resume=True), None, True, (True, 'start.pth')),
        (dict(resume=True), None, True, (True, 'epoch_1.pth')),
        (dict(resume=True), None, False, (False, None)),
    ],
)
def test_what_a_training_starts_from(tmp_path, settings, resume, has_last, expected):
    """Weights to fine-tune from are not forgotten where there is no checkpoint to resume from."""
    train = runpy.run_path(str(ROOT / 'tools' / 'train.py'))
    cfg = Config(dict(work_dir=str(tmp_path), **settings))
    if has_last:
        (tmp_path / 'epoch_1.pth').touch()
        (tmp_path / 'last_checkpoint').write_text('/elsewhere/epoch_1.pth')
    train['use_resume'](cfg, resume)
    start = cfg.get('load_from')
    assert (bool(cfg.get('resume')), start and Path(start).name) == expected
