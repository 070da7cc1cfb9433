"""Checkpoints of the scripts of mmwau: written whole or not at all, found, checked and read."""

import posixpath
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import CheckpointLoader, IterBasedTrainLoop, Runner
from torch.serialization import MAP_LOCATION

from mmwau.engine.overlap_hook import OverlapHook
from mmwau.engine.resume import OPTIONS, SCALARS, forget_scalars, is_resumed
from mmwau.files import safe_load
from mmwau.files.weights_file import checkpoints_in, read_checkpoint, refuse_folder
from mmwau.files.whole import UNFINISHED, write_whole

LAST = 'last_checkpoint'
# What a training that goes on needs of a checkpoint, beside its weights.
PROGRESS = ('meta', 'message_hub')


class AtomicLocalBackend(LocalBackend):
    """MMEngine's backend for this machine's disk, but a file appears when it is written whole.

    A training that is killed or runs out of disk while it saves leaves no half-written checkpoint,
    nor harms one that has the same name.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file; see :func:`mmwau.files.whole.write_whole`."""
        write_whole(obj, filepath)


def write_whole_files() -> None:
    """Let MMEngine write to this machine's disk through :class:`AtomicLocalBackend`."""
    register_backend('local', AtomicLocalBackend, force=True, prefixes='')


def remove_unfinished(work_dir: str | Path) -> None:
    """Remove what a killed training left unfinished in its work_dir.

    Only for the training script: another script may run while a training writes there.
    """
    if is_main_process():
        for unfinished in Path(work_dir).glob(f'.*{UNFINISHED}'):
            unfinished.unlink()


def load_from_local(filename: str, map_location: MAP_LOCATION = None) -> dict:
    """Read a checkpoint on this machine: see :func:`mmwau.files.weights_file.read_checkpoint`.

    It takes the place of MMEngine's loader of this name. As there, a file that is a state dict
    itself comes back as one: some models read the file of their teacher so.
    """
    path = Path(filename).expanduser()
    return read_checkpoint(path, map_location=map_location, bare=True)[0]


def read_safely() -> None:
    """Let MMEngine read checkpoints on this machine through :func:`load_from_local`.

    With a torch before 2.4, which can't read MMEngine's own safely, MMEngine reads as usual.
    """
    if safe_load.CAN_ALLOW:
        CheckpointLoader.register_scheme('', load_from_local, force=True)


def check_checkpoint(path: str | None, resume: bool = False) -> None:
    """Check that a checkpoint on this machine exists and can be read, without reading all of it.

    Addresses (``https://...``) are not checked. To resume training it needs more than weights.

    Raises:
        FileNotFoundError: If it does not exist.
        IsADirectoryError: If it is a folder.
        ValueError: If it is truncated, no checkpoint, needs code to run, or has too little to
            resume from.
        ImportError: If it is a safetensors file, and that package is not installed.
    """
    if path is None or '://' in path:
        return
    place = Path(path).expanduser()
    if not place.is_file():
        refuse_folder(place)
        raise FileNotFoundError(
            f'The checkpoint {path} does not exist. Checkpoints beside it: '
            f'{checkpoints_in(place.parent)}'
        )
    if not safe_load.CAN_ALLOW:
        return
    content, left_out = read_checkpoint(place, mmap=True)
    if not resume:
        return
    missing = [key for key in PROGRESS if key not in content]
    missing += [f'meta[{key!r}]' for key in ('epoch', 'iter') if key not in content.get('meta', ())]
    if missing:
        raise ValueError(
            f'Training can not be resumed from {path}, which has no {", ".join(missing)}: it has '
            'weights, and not how far training was. To start a new training from its weights, use '
            f'--cfg-options load_from={path} instead of --resume'
        )
    if left_out:
        raise ValueError(
            f'Training can not be resumed from {path}: it asks to run {", ".join(left_out[:5])}, '
            'which may do anything. If it is yours, allow it: torch.serialization.add_safe_globals '
            'in a module that custom_imports of the config names'
        )


def find_last(cfg: Config) -> str | None:
    """The checkpoint that ``--resume`` without a value goes on from.

    The work_dir may have been moved or copied since MMEngine wrote there where that checkpoint is:
    it is looked for in the work_dir first.

    Returns:
        The place; None where the work_dir has no checkpoint, so that training starts from the
        beginning.

    Raises:
        ValueError: If the file that should name it is empty.
        FileNotFoundError: If the work_dir does not have it, nor ``out_dir`` of the config's hook
            for checkpoints names another folder for them; or if nothing names it, and checkpoints
            are there.
    """
    work_dir = Path(cfg.work_dir)
    advice = (
        f'Name the checkpoint to go on from, --resume {work_dir / "NAME"}, of those in it: '
        f'{checkpoints_in(work_dir)}'
    )
    if not (work_dir / LAST).is_file():
        if [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]:
            raise FileNotFoundError(
                f'{work_dir / LAST} does not exist: training would start from the beginning, and '
                f'write over checkpoints that are there. {advice}'
            )
        return None
    named = (work_dir / LAST).read_text().strip()
    if not named:
        raise ValueError(
            f'{work_dir / LAST} is empty: training was killed while it was written. {advice}'
        )
    parts = Path(named).parts
    # The longest part of the path that there is, its name last.
    for start in range(Path(named).is_absolute(), len(parts)):
        place = work_dir.joinpath(*parts[start:])
        if place.is_file():
            return str(place)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('out_dir') is not None:
        return named
    raise FileNotFoundError(
        f'{work_dir / LAST} names the checkpoint {named}, and {work_dir} has no '
        f'{Path(named).name}. {advice}'
    )


class ResumeHook(Hook):
    """Makes a run that is resumed forget the place of an earlier work_dir, and logs what is lost.

    MMEngine keeps paths of checkpoints in checkpoints, and removes the best one by its path when
    there is a better one: in a copy of a work_dir that would be a file of the original.
    """

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Name checkpoints where this run keeps its own; log what the checkpoint lacks."""
        if not is_resumed(runner):
            return
        hub = checkpoint['message_hub']
        info = hub['runtime_info']
        for key, path in info.items():
            if key.startswith(('last_ckpt', 'best_ckpt')) and isinstance(path, str):
                info[key] = posixpath.join(_folder(runner), posixpath.basename(path))
        # The checkpoints that are saved from here on are of a training without WAU.
        if not hasattr(runner.optim_wrapper, 'wau') and info.pop(OPTIONS, None) is not None:
            runner.logger.warning(
                'WAU: the run was trained with WAU until here and goes on without it'
            )
            hub['resumed_keys'].pop(OPTIONS, None)
        if not any(isinstance(hook, OverlapHook) for hook in runner.hooks):
            forget_scalars(SCALARS, hub['log_scalars'], hub['resumed_keys'])
        if is_over(runner, checkpoint['meta']):
            runner.logger.warning(
                'Nothing is left to train: the checkpoint is of the end of the training, or later. '
                'To train on, raise train_cfg.max_epochs (or max_iters)'
            )
        if 'optimizer' not in checkpoint:
            runner.logger.warning(
                'The checkpoint has no state of the optimizer (save_optimizer=False): training '
                'goes on without the momentum, and the like, that it had'
            )
        if 'param_schedulers' not in checkpoint and runner.param_schedulers:
            runner.logger.warning(
                'The checkpoint has no state of the parameter schedulers '
                '(save_param_scheduler=False): learning rates start their schedule again'
            )


def is_over(runner: Runner, meta: dict) -> bool:
    """Whether a training that goes on with a checkpoint of this ``meta`` has nothing to do."""
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return meta['iter'] >= runner.train_loop.max_iters
    return meta['epoch'] >= runner.train_loop.max_epochs


def _folder(runner: Runner) -> str:
    """Where a run saves its checkpoints."""
    hooks = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    out_dir = getattr(next(hooks, None), 'out_dir', None)
    if out_dir is None:
        return runner.work_dir
    return posixpath.join(str(out_dir), posixpath.basename(runner.work_dir.rstrip('/')))
