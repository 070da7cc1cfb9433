"""Records of recipes in a file, and the page that shows them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmwau.files import write_whole
from mmwau.records import to_lines
from mmwau.version import __version__

from .data import SIDE
from .recipes import BATCH_SIZE, UPDATE_RATIO, UPDATES
from .trial import FAILED, FAILS_PLAIN, NOT_FOR_IT, NOT_TRIED, WORKS, Record

# Either name of a distribution may be installed.
PACKAGES = {
    'torch': ('torch',),
    'MMEngine': ('onedl-mmengine', 'mmengine'),
    'MMCV': ('onedl-mmcv', 'mmcv'),
    'MMDetection': ('onedl-mmdetection', 'mmdet'),
    'MMPreTrain': ('onedl-mmpretrain', 'mmpretrain'),
}
TITLES = {'mmdet': 'MMDetection', 'mmpretrain': 'MMPreTrain'}
COLUMNS = ('Family', 'Recipe', 'Backbone', 'Held', 'Filters', 'Skip', 'Active that moved', 'Result')
PAGE = """\
# Which recipes train with WAU

Every folder of configs that MMDetection and MMPreTrain bring along is a family here. Of each
family the smallest recipe that can be tried on drawn images got
[WAU's three lines](../README.md#add-it-to-your-training), was made small enough for a CPU, and was
trained with MMEngine's Runner: {updates} updates under `hold='weight'`, then one under
`hold='state'`, `update_ratio={ratio}`. In each update the weights at its start and at its end were
compared bit for bit, with a selection of active filters drawn apart from the training. A recipe
**works** where no held filter (nor its bias) changed a bit, and active ones moved in every layer
that had a gradient. This says that WAU does with a recipe what it should; it says nothing about
what a network learns.

```bash
python tools/compatibility.py             # train what is not done yet
python tools/compatibility.py --only fcos # again what has this in its name
python tools/compatibility.py --report    # write this page, and the records in compatibility.json
```

Versions: {versions}; 1 CPU thread.

What is changed of a recipe, by [rules](../mmwau/compatibility/recipes.py) that are the same for
all: {batch} images in a batch, drawn ones, of {side} pixels for detectors (classifiers keep their
size), with boxes as masks; at most 20 queries, 50 proposals and 16 sampled regions; no pretrained
weights (norms that start at zero start at 0.1, so that their branches have a gradient); a constant
learning rate; SyncBN becomes BN; no workers, validation or checkpoints. Recipes with automatic
mixed precision are trained in float32: MMEngine's wrapper for it refuses a machine without an
accelerator. Pipelines, wrappers of data sets (Mosaic, MixUp), samplers, losses, optimizers with
their parameter groups, clipping, gradient accumulation (at most 2), EMA and other hooks stay. What
one family needs beside that stands in its row.

The result of a recipe that stops is **failed**, or **fails without WAU too** where the same small
recipe stops in the same way without WAU: by itself, by the versions here, or by the rules above.
A family without a row has not been tried yet.

Columns:

- **Held**: convolutions that are held, of those below `backbone` and `neck`, and why not others.
- **Filters**: filters of the held ones.
- **Skip**: held convolutions that left out the gradients of held filters under `hold='state'`;
  [the others](speed.md) are of a kind or a size for which that is not done.
- **Active that moved**: of the active filters of all updates under `hold='weight'`. Those that did
  not move had no gradient, or moved by less than float32 tells apart.
"""


def write_report(records: Sequence[Record], folder: Path) -> None:
    """Write ``compatibility.md``, and beside it the records as ``compatibility.json``.

    Raises:
        OSError: If they can't be written.
    """
    versions = installed_versions()
    content = f'{{"versions": {json.dumps(versions)},\n"records": {to_lines(records)}}}\n'
    write_whole(content.encode(), folder / 'compatibility.json')
    write_whole(page_of(records, versions).encode(), folder / 'compatibility.md')


def installed_versions() -> dict[str, str]:
    """Versions of what takes part, by name."""
    found = {'mmwau': __version__}
    for name, distributions in PACKAGES.items():
        for distribution in distributions:
            try:
                found[name] = f'{version(distribution)} ({distribution})'
                break
            except PackageNotFoundError:
                continue
    return found


def page_of(records: Sequence[Record], versions: Mapping[str, str]) -> str:
    """The page as Markdown: how it was done, then a table for each project."""
    said = ', '.join(f'{name} {number}' for name, number in versions.items())
    parts = [
        PAGE.format(updates=UPDATES, ratio=UPDATE_RATIO, batch=BATCH_SIZE, side=SIDE, versions=said)
    ]
    for project, title in TITLES.items():
        rows = [record for record in records if record.project == project]
        if not rows:
            continue
        counts = Counter(record.result for record in rows)
        summary = ', '.join(
            f'{counts[result]} {result}'
            for result in (WORKS, NOT_FOR_IT, NOT_TRIED, FAILS_PLAIN, FAILED)
            if counts[result]
        )
        parts.append(f'## {title}\n\n{len(rows)} families: {summary}.\n')
        lines = [COLUMNS, ['---'] * len(COLUMNS), *map(row_of, rows)]
        parts.append('\n'.join(f'| {" | ".join(cells)} |' for cells in lines) + '\n')
    return '\n'.join(parts)


def row_of(record: Record) -> tuple[str, ...]:
    """The cells of a recipe's row."""
    result = record.result if record.result == WORKS else f'**{record.result}**'
    if record.reason:
        result += f': {record.reason}'.replace('|', r'\|')
    recipe = f'`{Path(record.recipe).stem}`' if record.recipe else '–'
    if not record.held:
        return record.family, recipe, record.backbone or '–', '–', '–', '–', '–', result
    left_out = ', '.join(f'{count} {reason}' for reason, count in record.left_out.items())
    held = f'{record.held} of {record.convolutions}' + (f' ({left_out})' if left_out else '')
    moved = f'{record.moved:,} of {record.active:,}'
    numbers = held, f'{record.filters:,}', str(record.skipping), moved
    return record.family, recipe, record.backbone or '–', *numbers, result
