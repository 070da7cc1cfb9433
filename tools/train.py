"""Train a detector or a classifier, with WAU or without."""

import argparse

import mmwau.core.openmp  # noqa: F401  (before torch)

from mmengine.config import Config

from mmwau.scripts import launch
from mmwau.scripts.checkpoint import find_last, remove_unfinished
from mmwau.scripts.errors import run_script
from mmwau.scripts.preflight import check_train_config
from mmwau.scripts.presets import preset_names, use_amp
from mmwau.scripts.pretrained import explain_weights


def parse_args() -> argparse.Namespace:
    """Parse the command line, which is that of OpenMMLab's training scripts."""
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_options(parser)
    add = parser.add_argument
    wau = 'put WAU on a config without it, with these settings'
    add('--wau', choices=preset_names(), help=wau)
    last = 'resume from this checkpoint, or without a value from the last one in the work_dir'
    add('--resume', nargs='?', const='auto', help=last)
    add('--amp', action='store_true', help='train with automatic mixed precision')
    scale = 'scale the learning rate by the batch size over auto_scale_lr.base_batch_size'
    add('--auto-scale-lr', action='store_true', help=scale)
    args = parser.parse_args()
    settings = {'--work-dir': 'work_dir'}
    # Where there is no last checkpoint yet, a training that resumes may start from load_from.
    if args.resume != 'auto':
        settings['--resume'] = 'load_from'
    launch.refuse_two_values(parser, args, settings)
    return args


def use_auto_scale_lr(cfg: Config) -> None:
    """Switch on the scaling of the learning rate by the batch size.

    Raises:
        ValueError: If the config does not say for which batch size its learning rate is.
    """
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config: the '
            'batch size, over all processes, that its learning rate is for'
        )
    cfg.auto_scale_lr.enable = True


def use_resume(cfg: Config, resume: str | None) -> None:
    """Resume from a checkpoint, from the last one for ``'auto'``, or for None as in the config."""
    if resume not in (None, 'auto'):
        cfg.resume, cfg.load_from = True, resume
    elif resume == 'auto' or (cfg.get('resume') and cfg.get('load_from') is None):
        last = find_last(cfg)
        # Before the first checkpoint, training starts as the config has it.
        cfg.resume, cfg.load_from = last is not None, last or cfg.get('load_from')


def main() -> None:
    """Check the config, build the runner, train."""
    args = parse_args()
    cfg = launch.load_config(args)
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        use_auto_scale_lr(cfg)
    use_resume(cfg, args.resume)
    check_train_config(cfg)
    with explain_weights(cfg):
        runner = launch.build_runner(cfg)
        remove_unfinished(cfg.work_dir)
        runner.train()
    launch.leave_processes()


if __name__ == '__main__':
    run_script(main)
