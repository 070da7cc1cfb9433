"""Train recipes of OpenMMLab's projects for two updates with WAU, and report which work.

    python tools/compatibility.py

How it does so: docs/compatibility.md. After it was stopped or killed, the same command goes on with
the next recipe.
"""

import argparse
import faulthandler
import os
import resource
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from mmwau.compatibility.data import make_data
from mmwau.compatibility.recipes import (
    NotTriedError,
    Recipe,
    choose_recipe,
    find_families,
    installed_projects,
)
from mmwau.compatibility.report import write_report
from mmwau.compatibility.trial import FAILED, TrialRecord, try_recipe
from mmwau.engine.package_configs import EXTRAS
from mmwau.files.records import read_records, write_records
from mmwau.files.whole import check_folder
from mmwau.scripts.errors import run_script

ROOT = Path(__file__).resolve().parents[1]
WORK_DIR = ROOT / 'work_dirs' / 'compatibility'
COMMAND = 'python tools/compatibility.py'
MEMORY_BYTES = 6 * 2**30
IMPORTED_BEFORE = ('mmdet.models', 'mmpretrain.models', 'mmwau.compatibility.trial')


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    only = 'families with this text in their name (mmdet/fcos), again if they are done already'
    add('--only', metavar='TEXT', help=only)
    report = 'write docs/compatibility.md and .json from what is done, train nothing'
    add('--report', action='store_true', help=report)
    limit = 'of a recipe (default: 300)'
    add('--time-limit', type=int, default=300, metavar='SECONDS', help=limit)
    place = 'for records, logs and data (default: work_dirs/compatibility)'
    add('--work-dir', type=Path, default=WORK_DIR, metavar='FOLDER', help=place)
    args = parser.parse_args(arguments)
    if args.only and args.report:
        parser.error('--only chooses what to train; --report shows all that is done')
    if args.time_limit < 1:
        parser.error(f'--time-limit must be at least 1 second, got {args.time_limit}')
    return args


def train_in_process(recipe: Recipe, data: Path, folder: Path, time_limit: int) -> None:
    """Try a recipe and leave the record in a file; what it prints goes to ``log.txt``.

    There is also where it is at half of the time, in case that it hangs.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    # What libraries print past Python goes there too.
    with open(folder / 'log.txt', 'w') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    faulthandler.dump_traceback_later(time_limit / 2, file=2)
    write_records([try_recipe(recipe, data, folder / 'run')], folder / 'record.json')


def try_in_process(recipe: Recipe, data: Path, work_dir: Path, time_limit: int) -> TrialRecord:
    """Try a recipe in a process of its own; a crash and a process that hangs are records too."""
    folder = work_dir / recipe.project / recipe.family
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / 'record.json'
    result.unlink(missing_ok=True)
    # Processes start from one that has imported everything, and has done nothing else. It inherits
    # the number of threads, which is read when torch is loaded: with more than one of them, some
    # recipes take minutes where other processes want the cores too.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    context = get_context('forkserver')
    context.set_forkserver_preload(list(IMPORTED_BEFORE))
    process = context.Process(target=train_in_process, args=(recipe, data, folder, time_limit))
    start = time.monotonic()
    process.start()
    process.join(time_limit)
    seconds = round(time.monotonic() - start, 1)
    if process.is_alive():
        process.kill()
        process.join()
        reason = f'not done after {time_limit} seconds'
    else:
        reason = f'the process ended with exit status {process.exitcode}'
    records = read_records(TrialRecord, result)
    if records:
        return records[0]
    name = f'{recipe.family}/{recipe.path.name}'
    return TrialRecord(recipe.project, recipe.family, name, FAILED, reason, seconds=seconds)


def run(args: argparse.Namespace) -> list[TrialRecord]:
    """Try what is not done yet; return all records."""
    path = args.work_dir / 'records.json'
    records = {record.name: record for record in read_records(TrialRecord, path)}
    projects = installed_projects()
    for project in sorted(set(EXTRAS) - set(projects)):
        advice = f"pip install 'mmwau[{EXTRAS[project]}]'"
        print(f'{project} is not installed, its families are left out: {advice}', flush=True)
    names = [f'{project}/{family}' for project in projects for family in find_families(project)]
    if args.only:
        chosen = [name for name in names if args.only in name]
        if not chosen:
            raise ValueError(
                f'--only {args.only}: no family has this in its name. There are: {", ".join(names)}'
            )
    else:
        chosen = [name for name in names if name not in records]
    data = args.work_dir / 'drawn'
    if not data.exists():
        make_data(data)
    start = time.monotonic()
    for done, name in enumerate(chosen):
        project, family = name.split('/', 1)
        try:
            recipe = choose_recipe(project, family)
            record = try_in_process(recipe, data, args.work_dir, args.time_limit)
        except NotTriedError as error:
            record = TrialRecord(project, family, reason=str(error))
        records[name] = record
        # Those of a project that is not installed now stay, at the end.
        others = [each for each in records.values() if each.project not in projects]
        write_records([*(records[it] for it in names if it in records), *others], path)
        per_recipe = (time.monotonic() - start) / (done + 1)
        left = per_recipe * (len(chosen) - done - 1) / 60
        why = f' ({record.reason})' if record.reason else ''
        said = f'{name}: {record.result}{why}, {record.seconds:.0f} s; about {left:.0f} min left'
        print(f'[{done + 1}/{len(chosen)}] {said}', flush=True)
    return list(records.values())


def main() -> None:
    """Try recipes, or write the report."""
    args = parse_args()
    if args.report:
        records = read_records(TrialRecord, args.work_dir / 'records.json')
        if not records:
            advice = 'run the same command without --report first'
            raise FileNotFoundError(f'There are no records in {args.work_dir}: {advice}')
        write_report(records, ROOT / 'docs')
        print('Written: docs/compatibility.md, docs/compatibility.json')
    else:
        check_folder(args.work_dir)
        run(args)
        print(f'Records: {args.work_dir / "records.json"}. The report: {COMMAND} --report')


if __name__ == '__main__':
    run_script(main)
