"""Show trainings side by side: curves, final values with their spread, and differences.

    python tools/analysis_tools/compare_runs.py work_dirs/baseline_seed? work_dirs/wau_seed?

Runs whose configs agree in everything but the seed are one arm. Nothing is trained or evaluated:
the tool reads what MMEngine logged in each work_dir.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mmwau.files.json_text import to_json
from mmwau.files.whole import check_folder
from mmwau.reporting.labels import short_labels
from mmwau.reporting.page import write_results
from mmwau.reporting.terminal import print_warnings, print_written, text_console
from mmwau.runs.arms import group_into_arms
from mmwau.runs.checks import baseline_first, check_comparable, choose_shown_metric, find_warnings
from mmwau.runs.reader import read_run
from mmwau.runs.report import ARMS_IN_ONE_TABLE, RunsReport
from mmwau.scripts.errors import run_script


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('work_dirs', nargs='+', metavar='work_dir', help='folder of a training')
    others = 'arm that the others are compared with (default: the first without WAU)'
    add('--baseline', metavar='LABEL', help=others)
    place = 'after this epoch, or iteration where training counts these (default: at the end of'
    add('--at', type=int, metavar='EPOCH', help=f'compare {place} each run)')
    add('--metric', help='metric to draw (default: coco/bbox_mAP, accuracy/top1, or the first)')
    out = 'for compare_runs.json, .png and .html (default: %(default)s)'
    add('--out', default='work_dirs/compare_runs', type=Path, metavar='FOLDER', help=out)
    return parser.parse_args(arguments)


def show(report: RunsReport, warnings: Sequence[str], folder: Path, console: Console) -> None:
    """Print the tables; write the JSON file, the pictures and the page."""
    pictures = {'compare_runs.png': report.draw_curves()}
    tables = report.value_tables()
    if report.stages:
        pictures['compare_runs_stages.png'] = report.draw_stages()
        # Those of many arms would fill the terminal; the page has them.
        if len(report.arms) <= ARMS_IN_ONE_TABLE:
            tables += report.stage_tables()
    for table in tables:
        console.print(table.to_terminal())
    print_warnings(console, warnings)
    title, sections = 'Trainings side by side', report.sections(warnings)
    content = to_json(report.results(warnings)).encode()
    written = write_results(folder, 'compare_runs', title, sections, pictures, content)
    print_written(console, folder, written)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs, group and compare them, show everything."""
    args = parse_args(arguments)
    check_folder(args.out, '--out')
    console = text_console()
    short_labels(args.work_dirs)  # raises if a folder is given twice
    runs = [read_run(work_dir) for work_dir in args.work_dirs]
    check_comparable(runs, args.at)
    metric = choose_shown_metric(runs, args.metric)
    arms = baseline_first(group_into_arms(runs), args.baseline)
    console.print(
        f'{len(runs)} runs in {len(arms)} arms; differences are relative to {arms[0].label}',
        soft_wrap=True,
    )
    show(RunsReport(arms, metric, args.at), find_warnings(arms, metric, args.at), args.out, console)


if __name__ == '__main__':
    run_script(main)
