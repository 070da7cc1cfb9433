"""Measure how much filters overlap, in checkpoints of any origin side by side.

    python tools/analysis_tools/filter_overlap.py CHECKPOINT [CHECKPOINT ...]

Checkpoints of MMDetection, MMPreTrain, torchvision, timm and others, plain state dicts and
safetensors files; no config is needed. With --config the outputs of the layers are compared too, on
images of the config's test data.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import mmwau.core.openmp  # noqa: F401  (before torch)

from rich.progress import Progress
from torch import Tensor, nn

from mmwau.analysis import overlap_pictures
from mmwau.analysis import overlap_report as report
from mmwau.analysis.filters import find_filters
from mmwau.files.json_text import to_json
from mmwau.files.weights_file import read_weights
from mmwau.files.whole import check_folder
from mmwau.reporting.labels import short_labels
from mmwau.reporting.page import write_results
from mmwau.reporting.terminal import progress_bar, text_console
from mmwau.scripts.errors import run_script
from mmwau.targets import is_below

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.model import BaseModel


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('checkpoints', nargs='+', metavar='checkpoint', help='file of weights')
    below = 'measure only the layers below these module names'
    add('--layers', nargs='+', default=[''], metavar='PREFIX', help=below)
    three = 'the three with the highest overlap relative to random filters'
    one_by_one = f'layers whose filters are compared one by one (default: {three})'
    add('--heat-maps', nargs='+', metavar='LAYER', help=one_by_one)
    cosine = '|cosine| from which on filters are near-duplicates, in (0, 1] (default: 0.9)'
    add('--duplicate-cosine', type=float, default=0.9, metavar='COSINE', help=cosine)
    # Its name in mmwau 0.1.
    hidden = argparse.SUPPRESS
    add('--twin-cosine', type=float, dest='duplicate_cosine', default=hidden, help=hidden)
    shows = 'shows which convolutions are grouped or transposed; the outputs are compared too'
    add('--config', help=f'config of the network (of MMDetection, MMPreTrain, ...): {shows}')
    images = 'images to compare the outputs on, with --config; 0 for none (default: 16)'
    add('--images', type=int, help=images)
    instead = 'print all that was measured as JSON, instead of tables'
    add('--json', action='store_true', help=instead)
    out, results = Path('work_dirs/filter_overlap'), 'folder for pictures, page and JSON file'
    add('--out', type=Path, default=out, help=results)
    unsafe = 'run the code that a checkpoint asks to run; only for trusted files'
    add('--unsafe-load', action='store_true', help=unsafe)
    args = parser.parse_args()
    if not 0 < args.duplicate_cosine <= 1:
        parser.error(f'--duplicate-cosine must be in (0, 1], got {args.duplicate_cosine}')
    if args.images is not None and not args.config:
        parser.error('--images are compared with --config, which is not given')
    if args.images is None:
        args.images = 16
    if args.images < 0:
        parser.error(f'--images must be 0 or more, got {args.images}')
    return args


def measure(
    label: str,
    path: str,
    weights: dict[str, Tensor],
    model: nn.Module | None,
    args: argparse.Namespace,
    progress: Progress,
) -> report.Measured:
    """Measure the filters of a checkpoint, with a line of progress.

    Raises:
        ValueError: If there is no convolution to measure.
    """
    filters, left_out = find_filters(weights, model)
    names = [name for name in filters if any(is_below(name, prefix) for prefix in args.layers)]
    wanted = {name: filters[name] for name in names}
    if not wanted:
        raise ValueError(
            f'{path}: no convolution to measure below --layers {" ".join(args.layers)!r}. '
            f'Convolutions in it are: {", ".join(list(filters)[:8]) or "none"}; left out: '
            f'{", ".join(list(left_out)[:8]) or "none"}'
        )
    layers, random = {}, {}
    for name, each in progress.track(wanted.items(), description=label):
        layers[name], random[name] = report.measure_filters(each, args.duplicate_cosine)
    return report.Measured(str(path), wanted, layers, random, left_out)


def build_model(config: str) -> tuple[nn.Module, object]:
    """Build the network of a config, without weights; return the config too.

    Raises:
        FileNotFoundError: If the config does not exist.
        ValueError: If it has no model.
    """
    # Weights can be measured where MMEngine is not installed.
    from mmengine.registry import MODELS, init_default_scope

    from mmwau.engine.package_configs import read_config

    cfg = read_config(config)
    if 'model' not in cfg:
        raise ValueError(f'The config {config} has no model')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = dict(cfg.model)
    if cfg.get('data_preprocessor') is not None:  # of MMPreTrain
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return MODELS.build(model), cfg


def compare_outputs(
    cfg: 'Config',
    model: nn.Module,
    weights: dict[str, dict[str, Tensor]],
    layers: list[str],
    images: int,
    progress: Progress,
) -> report.Features:
    """Compare the outputs of the layers on the first images of the config's test data.

    Raises:
        FileNotFoundError: If the test data do not exist.
        ValueError: If the weights are of another network.
    """
    from copy import deepcopy

    from mmengine.runner import Runner

    from mmwau.features import compare_features
    from mmwau.scripts.data_check import check_data

    check_data(cfg, ('test',))
    models = {}
    for label, state in weights.items():
        models[label] = deepcopy(model).eval()
        wrong = f'{label} does not belong to the network of --config'
        try:
            missing = models[label].load_state_dict(state, strict=False).missing_keys
        except RuntimeError as error:  # other shapes
            raise ValueError(f'{wrong}. {error}') from error
        if missing:
            raise ValueError(f'{wrong}: it lacks {", ".join(missing[:5])}')
    loader = Runner.build_dataloader(cfg.test_dataloader)
    task = progress.add_task('images', total=images)
    seen = 0

    def batches() -> Iterator[object]:
        nonlocal seen
        for batch in loader:
            if seen >= images:
                return
            yield batch
            seen += len(batch['inputs'])
            progress.update(task, completed=min(seen, images))

    def forward(network: 'BaseModel', batch: object) -> None:
        inputs = network.data_preprocessor(batch, False)['inputs']
        getattr(network, 'extract_feat', network)(inputs)

    measured = compare_features(models, layers, batches(), forward)
    return report.Features(seen, *measured)


def main() -> None:
    """Measure, print, draw and write."""
    args = parse_args()
    check_folder(args.out, '--out')
    # With --json the standard output is only for the measurements.
    console = text_console(stderr=args.json)
    labels = short_labels(args.checkpoints)
    weights = {
        label: read_weights(path, args.unsafe_load)
        for label, path in zip(labels, args.checkpoints, strict=True)
    }
    features = None
    with (
        progress_bar(console, transient=True) as progress,
        redirect_stdout(sys.stderr),  # where libraries chat
    ):
        model, cfg = build_model(args.config) if args.config else (None, None)
        checkpoints = {
            label: measure(label, path, weights[label], model, args, progress)
            for label, path in zip(labels, args.checkpoints, strict=True)
        }
        names = report.layer_names(checkpoints)
        heat_maps = args.heat_maps or overlap_pictures.default_heat_maps(checkpoints)
        unknown = [name for name in heat_maps if name not in names]
        if unknown:
            raise ValueError(
                f'--heat-maps: {", ".join(unknown)} is none of the measured layers: '
                f'{", ".join(names)}'
            )
        if model is not None and args.images:
            features = compare_outputs(cfg, model, weights, names, args.images, progress)
    figures = {
        'measures': overlap_pictures.draw_measures(checkpoints),
        'heat maps': overlap_pictures.draw_heat_maps(checkpoints, heat_maps),
    }
    if features is not None:
        figures['features'] = overlap_pictures.draw_features(features)
    content = to_json(report.results(checkpoints, args.duplicate_cosine, features))
    if args.json:
        print(content)
    else:
        console.print(report.network_table(checkpoints, args.duplicate_cosine).to_terminal())
        if len(checkpoints) == 1:
            ((label, each),) = checkpoints.items()
            console.print(report.layer_table(label, each, args.duplicate_cosine).to_terminal())
        elif len(checkpoints) <= 4:  # the page has it with more columns
            console.print(report.comparison_table(checkpoints).to_terminal())
        if features is not None:
            console.print(report.feature_table(features).to_terminal())
        for line in report.left_out_lines(checkpoints):
            console.print(line)
    pictures = {f'{name.replace(" ", "_")}.png': figure for name, figure in figures.items()}
    sections = report.sections(checkpoints, args.duplicate_cosine, figures, features)
    write_results(
        args.out, 'filter_overlap', 'Filter overlap', sections, pictures, content.encode()
    )
    console.print(f'Pictures, page and JSON file: {args.out}/', soft_wrap=True)


if __name__ == '__main__':
    run_script(main)
