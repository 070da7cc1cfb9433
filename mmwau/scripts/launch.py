"""What the training and the testing script share: options, config, processes."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed

from mmwau.datasets.coco_file import read_with_marks
from mmwau.engine.package_configs import read_config
from mmwau.runs.settings import COLLATE

from .checkpoint import ResumeHook, read_safely, write_whole_files
from .presets import use_wau


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command lines of OpenMMLab's training and testing scripts have in common."""
    add = parser.add_argument
    add('config', help='config file, or a config of a package, such as mmdet::FOLDER/NAME.py')
    add('--work-dir', help='folder for logs, checkpoints and metrics')
    options = (
        'override settings of the config, as key=value; nested keys are joined by dots, lists are '
        'written key="[a,b]" or key=a,b, without white space'
    )
    add('--cfg-options', nargs='+', action=DictAction, help=options)
    launchers = ['none', 'pytorch', 'slurm', 'mpi']
    add('--launcher', choices=launchers, default='none', help='job launcher')
    # torch.distributed.launch of older versions passes one of these.
    add('--local_rank', '--local-rank', type=int, default=0, help='set by launchers')


def refuse_two_values(
    parser: argparse.ArgumentParser, args: argparse.Namespace, settings: Mapping[str, str]
) -> None:
    """End with a usage error where ``--cfg-options`` gives a setting that another option gives too.

    ``settings`` has by option or argument the setting of the config that it is for.
    """
    for option, setting in settings.items():
        given = getattr(args, option.strip('-').replace('-', '_'))
        if given is not None and setting in (args.cfg_options or {}):
            parser.error(
                f'{option} and --cfg-options {setting}=... contradict each other; give one of them'
            )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the command line names, put WAU on it if asked, merge its options.

    Raises:
        FileNotFoundError: If the config does not exist.
        ValueError: If WAU can't be put on it.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    preset = getattr(args, 'wau', None)
    if preset is not None:
        use_wau(cfg, preset)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    collate_as_mmpretrain(cfg)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        arm = '' if preset is None else f'_wau_{preset}'
        cfg.work_dir = str(Path('work_dirs') / (Path(args.config).stem + arm))
    return cfg


def collate_as_mmpretrain(cfg: Config) -> None:
    """Let a recipe of MMPreTrain that sets no ``collate_fn`` have the one of its own scripts.

    Without it MMEngine hands on lists, which some of its models do not take.
    """
    if cfg.get('default_scope') != 'mmpretrain':
        return
    for stage in ('train', 'val', 'test'):
        loader = cfg.get(f'{stage}_dataloader')
        if isinstance(loader, dict):
            loader.setdefault('collate_fn', dict(COLLATE))


def build_runner(cfg: Config) -> Runner:
    """Build the runner, with checkpoints that are whole and safe, in several processes on CPUs too.

    Annotation files may begin with a byte order mark.

    MMEngine starts processes on accelerators only; without one, the group is started here, with
    gloo, and the model is wrapped without the device that MMEngine would give it.
    """
    if cfg.get('launcher') == 'pytorch' and get_device() == 'cpu':
        if not distributed.is_initialized():
            seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
            timeout = None if seconds is None else timedelta(seconds=seconds)
            distributed.init_process_group('gloo', timeout=timeout)
        if cfg.get('model_wrapper_cfg') is None:
            cfg.model_wrapper_cfg = dict(
                type='MMDistributedDataParallel',
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=cfg.get('find_unused_parameters', False),
            )
    read_with_marks()
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.register_hook(ResumeHook())
    write_whole_files()
    read_safely()
    return runner


def leave_processes() -> None:
    """Leave the group of processes in step, if there is one; the last thing that a script does.

    A process that ends while another still talks to it can abort at its very end. With gloo it can
    even so, while the interpreter tears down threads of the group ("terminate called without an
    active exception"), after everything is done and written: it ends at once instead.
    """
    if not distributed.is_initialized():
        return
    on_cpu = distributed.get_backend() == 'gloo'
    distributed.barrier()
    distributed.destroy_process_group()
    if on_cpu:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
