"""Measure how much time WAU saves in the training steps of your config.

    python tools/analysis_tools/compare_steps.py CONFIG
    python tools/analysis_tools/compare_steps.py CONFIG --wau layers --ratios 0.75 0.5 0.25

CONFIG is a baseline, as for ``tools/train.py --wau``. It is trained on batches of its data by turns
with and without WAU, so that a busy machine disturbs all in the same way. Nothing is kept.
"""

import argparse
import logging
import tempfile
import warnings

import mmwau.core.openmp  # noqa: F401  (before torch)

import torch
from mmengine.config import DictAction

from mmwau.benchmark.arms import BASELINE
from mmwau.benchmark.config_steps import ConfigTrainer, load_batches, with_wau
from mmwau.benchmark.report import steps_table
from mmwau.benchmark.rounds import FEWEST, WARM_UP, Effort, interleave, phase_table
from mmwau.engine.package_configs import read_config
from mmwau.reporting.terminal import progress_bar, text_console
from mmwau.scripts.errors import run_script
from mmwau.scripts.launch import collate_as_mmpretrain
from mmwau.scripts.preflight import check_train_config
from mmwau.scripts.presets import preset_names
from mmwau.scripts.pretrained import explain_weights


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('config', help='config file, or a config of a package, such as mmdet::FOLDER/NAME.py')
    override = 'override settings of the config, as key=value, as in tools/train.py'
    add('--cfg-options', nargs='+', action=DictAction, help=override)
    readings = 'readings to measure (default: paper and layers)'
    default = ['paper', 'layers']
    add('--wau', nargs='+', choices=preset_names(), default=default, help=readings)
    ratios = 'update ratios to measure, in (0, 1] (default: 0.5)'
    add('--ratios', nargs='+', type=float, default=[0.5], metavar='RATIO', help=ratios)
    add('--rounds', type=int, default=15, help='fewest rounds that count (default: 15)')
    most = 'most rounds, if the effects are smaller than the noise (default: 100)'
    add('--max-rounds', type=int, default=100, help=most)
    args = parser.parse_args()
    if not all(0 < ratio <= 1 for ratio in args.ratios):
        parser.error(f'--ratios must be in (0, 1], got {" ".join(map(str, args.ratios))}')
    if not FEWEST <= args.rounds <= args.max_rounds:
        parser.error(
            f'--rounds must be at least {FEWEST} and at most --max-rounds, {args.max_rounds}, got '
            f'{args.rounds}'
        )
    return args


def main() -> None:
    """Measure, and print the table."""
    args = parse_args()
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    collate_as_mmpretrain(cfg)
    console = text_console()
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        arms = {BASELINE: cfg} | {
            f'{preset} {ratio:g}': with_wau(cfg, preset, ratio)
            for preset in args.wau
            for ratio in args.ratios
        }
        for arm in arms.values():
            check_train_config(arm)
        logging.disable(logging.WARNING)
        warnings.simplefilter('ignore')
        batches = load_batches(cfg)
        with explain_weights(cfg):
            steps = {name: ConfigTrainer(arm, batches, name).step for name, arm in arms.items()}
        total = len(arms) * (WARM_UP + args.max_rounds)
        with progress_bar(console, auto_refresh=False) as progress:
            task = progress.add_task('steps', total=total)
            rounds = interleave(
                steps,
                Effort(args.rounds, args.max_rounds),
                lambda: progress.update(task, advance=1, refresh=True),
            )
            progress.update(task, completed=total)
    title = f'{args.config}, batch {cfg.train_dataloader.batch_size}'
    console.print(steps_table(title, torch.get_num_threads(), phase_table(rounds)))


if __name__ == '__main__':
    run_script(main)
