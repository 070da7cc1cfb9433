"""Test a trained detector or classifier: metrics, and predictions as pictures."""

import argparse
from copy import copy

import mmwau.core.openmp  # noqa: F401  (before torch)

from mmengine.config import Config

from mmwau.engine.type_names import type_name
from mmwau.files.whole import check_file, check_folder
from mmwau.scripts import launch
from mmwau.scripts.errors import run_script
from mmwau.scripts.preflight import check_test_config
from mmwau.scripts.pretrained import explain_weights


def parse_args() -> argparse.Namespace:
    """Parse the command line, which is that of OpenMMLab's testing scripts."""
    parser = argparse.ArgumentParser(description=__doc__)
    launch.add_common_options(parser)
    add = parser.add_argument
    add('checkpoint', help='checkpoint file')
    add('--out', help='write the predictions to this file (.pkl)')
    add('--show', action='store_true', help='show predictions on the screen')
    folder = 'write images with predictions to this folder (for detectors, in WORK_DIR/TIME)'
    add('--show-dir', help=folder)
    seconds = 'seconds to show an image for, with --show (default: 2)'
    add('--wait-time', type=float, help=seconds)
    add('--tta', action='store_true', help='test-time augmentation')
    args = parser.parse_args()
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end with .pkl or .pickle, got {args.out}')
    if args.wait_time is not None and not args.show:
        parser.error('--wait-time is for --show, which is not given')
    if args.wait_time is None:
        args.wait_time = 2.0
    launch.refuse_two_values(parser, args, {'--work-dir': 'work_dir', 'checkpoint': 'load_from'})
    return args


def show_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Switch on the config's hook that draws predictions.

    Raises:
        ValueError: If the config has no such hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError(
            '--show and --show-dir need default_hooks.visualization in the config, for '
            "MMDetection dict(type='DetVisualizationHook'), for MMPreTrain "
            "dict(type='VisualizationHook')"
        )
    hook.update(show=args.show, wait_time=args.wait_time)
    kind = type_name(hook.type)
    if kind in ('VisualizationHook', 'PoseVisualizationHook'):  # MMPreTrain's and MMPose's
        hook.update(enable=True, out_dir=args.show_dir)
        if kind == 'VisualizationHook':
            hook.setdefault('interval', 1)  # it would draw every 5,000th image
        return
    hook.draw = True
    if args.show_dir and kind == 'SegVisualizationHook':
        cfg.visualizer.save_dir = args.show_dir  # it has no folder of its own
    elif args.show_dir:
        hook.test_out_dir = args.show_dir


def use_tta(cfg: Config) -> None:
    """Put the model and the test pipeline of the config's test-time augmentation in place.

    Raises:
        ValueError: If the config has none.
    """
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError('--tta needs tta_model and tta_pipeline in the config')
    tta_model = copy(cfg.tta_model)
    tta_model.module = cfg.model
    cfg.model = tta_model
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def dump_predictions(cfg: Config, path: str) -> None:
    """Add a metric that writes the predictions to a file."""
    scope = cfg.get('default_scope') or cfg.to_dict()['model']['type'].partition('.')[0]
    dump = 'mmdet.DumpDetResults' if scope == 'mmdet' else 'DumpResults'
    metrics = cfg.test_evaluator
    metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
    cfg.test_evaluator = [*metrics, dict(type=dump, out_file_path=path)]


def main() -> None:
    """Check the config, build the runner, test."""
    args = parse_args()
    if args.out is not None:
        check_file(args.out, '--out')
    if args.show_dir is not None:
        check_folder(args.show_dir, '--show-dir')
    cfg = launch.load_config(args)
    # A config that a training left in its work_dir says to resume, if that training did.
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.show or args.show_dir:
        show_predictions(cfg, args)
    if args.tta:
        use_tta(cfg)
    if args.out is not None:
        dump_predictions(cfg, args.out)
    check_test_config(cfg)
    with explain_weights(cfg):
        launch.build_runner(cfg).test()
    launch.leave_processes()


if __name__ == '__main__':
    run_script(main)
