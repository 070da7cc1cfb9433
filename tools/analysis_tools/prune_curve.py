"""Measure how the metric falls as filters are removed, for checkpoints side by side.

    python tools/analysis_tools/prune_curve.py CONFIG PLAIN_CHECKPOINT WAU_CHECKPOINT

Filters are zeroed in order of least L1 norm, most overlap, highest average percentage of zeros,
least influence on the loss, or at random, in all layers at once and with --per-layer also in one
layer at a time. Nothing is trained. With --finetune-epochs they are removed for good, in all layers
at once, and the network is trained on. Run again, the same command goes on where it was stopped.
"""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path

import mmwau.core.openmp  # noqa: F401  (before torch)

from mmengine.config import Config, DictAction
from rich.console import Console

from mmwau.analysis.evaluation import (
    MEASURED_PARTS,
    Measurements,
    load_weights,
    prepare,
    quiet,
    run_first_images,
)
from mmwau.analysis.finetune_report import FinetuneReport
from mmwau.analysis.finetuning import (
    NO_METRICS,
    Finetuning,
    find_shrinkable,
    prepare_training,
)
from mmwau.analysis.prune_report import PruneReport
from mmwau.analysis.prune_results import Curves, Results, describe
from mmwau.analysis.pruning import ORDERS, Removable, find_removable
from mmwau.analysis.shrinking import check_installed
from mmwau.analysis.training_loss import check_training_data
from mmwau.files.whole import check_folder
from mmwau.reporting.labels import short_labels
from mmwau.reporting.page import Table, write_results
from mmwau.reporting.terminal import print_warnings, print_written, progress_bar, text_console
from mmwau.runs.metrics import choose_metric
from mmwau.scripts.errors import run_script
from mmwau.scripts.launch import build_runner, load_config
from mmwau.targets import is_below


def parse_arm(text: str) -> tuple[str, int]:
    """Name of an arm and its number of checkpoints, given as ``NAME=NUMBER``."""
    name, _, count = text.rpartition('=')
    if not name or not count.isdecimal():
        raise argparse.ArgumentTypeError(f'an arm is NAME=NUMBER, such as WAU=3, got {text!r}')
    return name, int(count)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('config', help='config of the network and its test data')
    add('checkpoints', nargs='+', metavar='checkpoint', help='trained weights')
    unless = 'all but taylor, which needs training data; l1 with --finetune-epochs'
    listed = f'of {", ".join(ORDERS)} (default: {unless})'
    add('--orders', nargs='+', choices=ORDERS, metavar='ORDER', help=listed)
    seeds = 'of the random order (default: 0 1 2)'
    add('--seeds', nargs='+', type=int, metavar='SEED', help=seeds)
    tenths = [tenth / 10 for tenth in range(10)]
    from_all = 'to remove from every layer, in [0, 1) (default: 0 0.1 ... 0.9)'
    add('--fractions', nargs='+', type=float, default=tenths, metavar='FRACTION', help=from_all)
    prefixes = 'module-name prefixes of layers (default: backbone neck)'
    add('--targets', nargs='+', default=['backbone', 'neck'], metavar='PREFIX', help=prefixes)
    add('--per-layer', action='store_true', help='also remove filters from one layer at a time')
    of_layer = 'for --per-layer (default: 0.25 0.5 0.75)'
    add('--layer-fractions', nargs='+', type=float, metavar='FRACTION', help=of_layer)
    add('--layers', nargs='+', metavar='PREFIX', help='layers of --per-layer (default: all)')
    images = 'first images of the test data, for apoz (default: 32)'
    add('--apoz-images', type=int, metavar='N', help=images)
    spread = 'images of the training data, spread evenly, for taylor (default: 32)'
    add('--taylor-images', type=int, metavar='N', help=spread)
    for_good = 'remove filters for good, and train on for so many epochs with the config'
    add('--finetune-epochs', type=int, metavar='N', help=for_good)
    lost = "of the whole network's metric, what may be lost then, in [0, 1) (default: 0.01)"
    add('--tolerance', type=float, metavar='FRACTION', help=lost)
    arms = (
        'with --finetune-epochs: which checkpoints are repetitions of one arm, in their order, '
        'paired by place, as in baseline=3 WAU=3'
    )
    add('--arms', nargs='+', type=parse_arm, metavar='NAME=NUMBER', help=arms)
    known = 'coco/bbox_mAP, accuracy/top1, or the first'
    add('--metric', help=f'name of the metric, of which more is better (default: {known})')
    results = 'folder for the results and the page (default: %(default)s)'
    add('--work-dir', default='work_dirs/prune_curve', help=results)
    add('--overwrite', action='store_true', help='forget earlier results')
    override = 'override settings of the config, as key=value'
    add('--cfg-options', nargs='+', action=DictAction, help=override)
    parser.set_defaults(launcher='none', local_rank=0)
    args = parser.parse_args(arguments)
    trains = args.finetune_epochs is not None
    if args.orders is None:
        args.orders = ['l1'] if trains else [order for order in ORDERS if order != 'taylor']
    if trains and args.per_layer:
        parser.error('--per-layer does not train: leave it or --finetune-epochs out')
    # An option that another one leaves without an effect, and what takes its place if not given.
    for name, default, needed, is_there in (
        ('layers', None, '--per-layer', args.per_layer),
        ('layer_fractions', [0.25, 0.5, 0.75], '--per-layer', args.per_layer),
        ('seeds', [0, 1, 2], '--orders random', 'random' in args.orders),
        ('apoz_images', 32, '--orders apoz', 'apoz' in args.orders),
        ('taylor_images', 32, '--orders taylor', 'taylor' in args.orders),
        ('tolerance', 0.01, '--finetune-epochs', trains),
        ('arms', [], '--finetune-epochs', trains),
    ):
        option = f'--{name.replace("_", "-")}'
        if getattr(args, name) is None:
            setattr(args, name, default)
        elif not is_there:
            parser.error(f'{option} is for {needed}, which is not given')
    for name in ('fractions', 'layer_fractions'):
        option, given = f'--{name.replace("_", "-")}', getattr(args, name)
        for fraction in given:
            if not 0 <= fraction < 1:
                parser.error(f'{option} must be in [0, 1), got {fraction}')
        if not any(given):
            parser.error(f'{option} needs a fraction above 0: 0 is the whole network')
        setattr(args, name, sorted(set(given) - {0}))
    for name in ('apoz_images', 'taylor_images', *(['finetune_epochs'] if trains else [])):
        if getattr(args, name) < 1:
            option = f'--{name.replace("_", "-")}'
            parser.error(f'{option} must be at least 1, got {getattr(args, name)}')
    sizes = [count for _, count in args.arms]
    equal = len(set(sizes)) == 1 and len(dict(args.arms)) == len(sizes) > 1
    if args.arms and not (equal and sizes[0] > 1 and sum(sizes) == len(args.checkpoints)):
        given = ' '.join(f'{name}={count}' for name, count in args.arms)
        parser.error(
            '--arms must be two or more different names with the same number of checkpoints each, '
            f'at least 2, {len(args.checkpoints)} in all as given, got {given}'
        )
    if not 0 <= args.tolerance < 1:
        parser.error(f'--tolerance must be in [0, 1), got {args.tolerance}')
    # Twice the same would be twice in the tables.
    args.orders, args.seeds = list(dict.fromkeys(args.orders)), list(dict.fromkeys(args.seeds))
    return args


def check_different(checkpoints: Sequence[str], digests: Sequence[str]) -> None:
    """Raise a ValueError if a file is a copy of another one, which would count twice."""
    first: dict[str, str] = {}
    for path, digest in zip(checkpoints, digests, strict=True):
        if digest in first:
            raise ValueError(f'The checkpoint {path} is the same file as {first[digest]}')
        first[digest] = path


def identify(
    args: argparse.Namespace, cfg: Config, training: Config | None, digests: Sequence[str]
) -> dict:
    """What results depend on, beside what each of them says of itself."""
    parts = cfg.to_dict()
    config = {key: parts.get(key) for key in MEASURED_PARTS}
    # For the order taylor.
    config['train_dataset'] = (parts.get('train_dataloader') or {}).get('dataset')
    if training is not None:
        config = {key: part for key, part in training.to_dict().items() if key != 'work_dir'}
        # Results of earlier versions compare with the whole network as its checkpoint has it.
        config['whole'] = 'trained on'
    return dict(
        config=config,
        targets=args.targets,
        apoz_images=args.apoz_images,
        taylor_images=args.taylor_images,
        checkpoints=dict(zip(digests, args.checkpoints, strict=True)),
    )


def choose_layers(layers: Mapping[str, Removable], args: argparse.Namespace) -> dict[str, int]:
    """Number of filters, by name, of the layers to look at one by one.

    Raises:
        ValueError: If a prefix of --layers matches none; it lists some that exist.
    """
    if not args.per_layer:
        return {}
    for prefix in args.layers or ():
        if not any(is_below(name, prefix) for name in layers):
            raise ValueError(
                f'--layers {prefix} matches no layer that can lose filters. Layers that exist are '
                f'for example: {", ".join(list(layers)[:5])}'
            )
    return {
        name: layer.num_filters
        for name, layer in layers.items()
        if any(is_below(name, prefix) for prefix in args.layers or [''])
    }


def metric_of(measured: Mapping[str, float], args: argparse.Namespace) -> str:
    """The metric to show, see ``choose_metric``; what is measured beside metrics is none."""
    metrics = {name: value for name, value in measured.items() if not name.startswith(NO_METRICS)}
    return choose_metric(metrics, args.metric)


def measure_all(
    args: argparse.Namespace,
    curves: Curves,
    results: Results,
    measurements: Measurements,
    console: Console,
) -> None:
    """Measure what is not measured yet, with a progress bar and the time left.

    Raises:
        ValueError: If the metric that was asked for does not exist.
    """
    labels = list(curves.checkpoints)
    planned = {label: list(curves.points(label)) for label in labels}
    # One evaluation may take longer than the time from which rich estimates speeds by default.
    progress = progress_bar(
        console, speed_estimate_period=float('inf'), redirect_stdout=False, redirect_stderr=False
    )
    every = [point for each in planned.values() for point in each]
    done = sum(point in results.metrics for point in every)
    with progress:
        task = progress.add_task('', total=len(every), completed=done)
        measurements.watch(lambda share: progress.advance(task, share))
        progress.advance(task, 0)  # the time from which the speed is estimated
        for label, path in zip(labels, args.checkpoints, strict=True):
            whole = planned[label][0]
            if whole in results.metrics:
                metric_of(results.metrics[whole], args)
            missing = [point for point in planned[label] if point not in results.metrics]
            if missing:
                progress.update(task, description=f'{label}, loading')
                measurements.load(path, curves.orders, curves.seeds)
            for point in missing:
                progress.update(task, description=describe(point, label))
                metrics = measurements.measure(point)
                if point == whole:
                    metric_of(metrics, args)
                results.add(point, metrics)
                done += 1
                progress.update(task, completed=done)
        progress.update(task, description='measured')


def show(
    args: argparse.Namespace, report: PruneReport, left_out: Mapping[str, str], console: Console
) -> None:
    """Print the tables; write the pictures and the page."""
    curves, folder = report.curves, Path(args.work_dir)
    if isinstance(report, FinetuneReport):
        for shown in (report.limit_table(), *report.arm_tables()):
            console.print(shown.to_terminal())
        pictures = {'prune_finetune.png': report.draw_sizes()}
    else:
        # The summary and short names take 44 columns, a fraction 8.
        table = report.network_table(most=max(1, (console.width - 44) // 8)).to_terminal()
        for column in table.columns[1:]:
            column.no_wrap = True
        console.print(table)
        pictures = {'prune_curve.png': report.draw_network()}
    if curves.layers:
        middle = curves.layer_fractions[len(curves.layer_fractions) // 2]
        for order in curves.orders:
            table = report.layer_table(middle, [order]).to_terminal()
            table.columns[0].no_wrap = True
            console.print(table)
        pictures['prune_curve_layers.png'] = report.draw_layers(middle)
    print_warnings(console, report.warnings())
    rows = [
        [label, path, digest[:12], report.text(report.whole(label))]
        for (label, digest), path in zip(curves.checkpoints.items(), args.checkpoints, strict=True)
    ]
    columns = ['label', 'checkpoint', 'SHA-256', f'{report.metric}, whole']
    if args.finetune_epochs is not None:
        columns[-1] += ' and trained on'
    if args.arms:
        columns.append('arm, place')
        places = [f'{arm}, {place}' for arm, count in args.arms for place in range(1, count + 1)]
        rows = [[*row, place] for row, place in zip(rows, places, strict=True)]
    measured = Table(f'Config {args.config}', columns, rows)
    sections = report.sections(measured, left_out)
    title = 'How the metric falls as filters are removed'
    if args.finetune_epochs is not None:
        title += ' for good'
    written = write_results(folder, file_name(args), title, sections, pictures)
    print_written(console, folder, written)


def file_name(args: argparse.Namespace) -> str:
    """Name of the results and of the page."""
    return 'prune_curve' if args.finetune_epochs is None else 'prune_finetune'


def main(arguments: Sequence[str] | None = None) -> None:
    """Check the input, measure what is missing, show everything."""
    args = parse_args(arguments)
    warnings.simplefilter('ignore')
    check_folder(args.work_dir)
    # The stream itself: what is printed by evaluations goes elsewhere.
    console = text_console(file=sys.stdout)
    if args.finetune_epochs is not None:
        check_installed()
    with quiet():
        cfg = load_config(args)
        training: Config | None = None
        if args.finetune_epochs is not None:
            training = prepare_training(cfg, args.finetune_epochs)
        if 'taylor' in args.orders:
            check_training_data(cfg, '--orders taylor')
        prepare(cfg, args.checkpoints)
        labels = short_labels(args.checkpoints)
        digests = [sha256(Path(path).read_bytes()).hexdigest() for path in args.checkpoints]
        check_different(args.checkpoints, digests)
        identity = identify(args, cfg, training, digests)
        results_path = Path(args.work_dir) / f'{file_name(args)}.json'
        results = Results(results_path, identity, args.overwrite)
        runner = build_runner(cfg)
        load_weights(runner, args.checkpoints[0])
        runner.test_loop  # noqa: B018  builds it, which reads the annotations
        layers, left_out = find_removable(
            runner.model, args.targets, lambda: run_first_images(runner, 1)
        )
        if training is not None:
            layers, more = find_shrinkable(runner, layers)
            left_out |= more
    curves = Curves(
        checkpoints=dict(zip(labels, digests, strict=True)),
        orders=args.orders,
        seeds=args.seeds,
        fractions=args.fractions,
        layers=choose_layers(layers, args),
        layer_fractions=args.layer_fractions,
    )
    filters = sum(layer.num_filters for layer in layers.values())
    console.print(f'{len(layers)} convolutions with {filters} filters lose some of them')
    for name, reason in left_out.items():
        console.print(f'Left out: {name}, {reason}', soft_wrap=True)
    images = {'apoz': args.apoz_images, 'taylor': args.taylor_images}
    measurements = Measurements(runner, layers, images)
    if training is not None:
        measurements = Finetuning(runner, layers, images, training, args.metric)
    try:
        measure_all(args, curves, results, measurements, console)
    except KeyboardInterrupt:
        sys.exit(f'Stopped. What is measured is in {results.path}; the same command goes on')
    metric = metric_of(results.metrics[next(curves.points(labels[0]))], args)
    report = PruneReport(curves, results.metrics, metric)
    if args.finetune_epochs is not None:
        names, arms = iter(labels), {}
        for arm, count in args.arms:
            arms[arm] = list(islice(names, count))
        report = FinetuneReport(
            curves, results.metrics, metric, args.finetune_epochs, args.tolerance, arms
        )
    show(args, report, left_out, console)


if __name__ == '__main__':
    run_script(main)
