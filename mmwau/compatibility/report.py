"""Records of recipes in a file, and the page that shows them."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmwau.files.records import to_lines
from mmwau.files.whole import write_whole
from mmwau.version import __version__

from .data import SIDE
from .recipes import BATCH_SIZE, UPDATE_RATIO, UPDATES
from .trial import AXES, FAILED, FAILS_PLAIN, NOT_FOR_IT, NOT_TRIED, WORKS, TrialRecord

# One of the names of a distribution is installed.
PACKAGES = {
    'torch': ('torch',),
    'MMEngine': ('onedl-mmengine', 'mmengine'),
    'MMCV': ('onedl-mmcv', 'mmcv'),
    'MMDetection': ('onedl-mmdetection', 'mmdet'),
    'MMPreTrain': ('onedl-mmpretrain', 'mmpretrain'),
    'MMSegmentation': ('onedl-mmsegmentation', 'mmsegmentation'),
    'MMRotate': ('onedl-mmrotate', 'mmrotate'),
    'MMPose': ('mmpose',),
}
TITLES = {
    'mmdet': 'MMDetection',
    'mmpretrain': 'MMPreTrain',
    'mmseg': 'MMSegmentation',
    'mmrotate': 'MMRotate',
    'mmpose': 'MMPose',
}
COLUMNS = ('Family', 'Recipe', 'Backbone', 'Held', 'Filters', 'Skip', 'Active that moved', 'Result')
PAGE = """\
# Which recipes train with WAU

A family is a folder of configs that comes with one of OpenMMLab's projects. Of each family, the
smallest recipe that can be tried on drawn images got
[WAU's three lines](../README.md#add-it-to-your-training), was made small enough for a CPU, and was
trained with MMEngine's Runner: {updates} updates under `hold='weight'`, then one under
`hold='state'` by filters and, where the column Skip has a number, one by input channels and one by
whole layers, with `update_ratio={ratio}`. For each update, the weights before and after it were
compared bit for bit, and the selection of what is active was drawn a second time, separately from
the training. A recipe **works** if no bit of
what is held (or of its bias) changed, and active filters moved in every layer that had a gradient.
This shows that WAU does to a recipe what it should; it says nothing about what a network learns.

```bash
pip install '.[compatibility,segmentation,rotate]'
python tools/compatibility.py             # train what is not done yet; all: 2 hours of one core
python tools/compatibility.py --only fcos # train again what has this in its name
python tools/compatibility.py --report    # write this page, and the records in compatibility.json
```

A project that is not installed is left out. Versions: {versions}; 1 CPU thread.

Each recipe is changed by the same [rules](../mmwau/compatibility/recipes.py):

- {batch} drawn images in a batch, of {side} pixels for detectors and segmenters (classifiers and
  pose estimators keep their size), with boxes as masks, rectangles around shapes, and keypoints at
  random places; for what is trained on them, also panoptic maps, proposals, captions, videos in
  which a camera moves over the shapes, crops of single shapes, and small grey images as MNIST;
- at most 20 queries, 50 proposals, 16 sampled regions and 2 layers of a language model;
- no pretrained weights, but random ones, as for the networks that give targets or read texts (they
  know the words of the drawn data only); norms that start at zero start at 0.1, so that their
  branches have a gradient;
- a constant learning rate, and BN instead of SyncBN;
- no workers, validation or checkpoints;
- float32 instead of automatic mixed precision, since MMEngine's wrapper for it needs an
  accelerator.

Pipelines, dataset wrappers (Mosaic, MixUp), samplers, losses, optimizers with their parameter
groups, clipping, gradient accumulation (at most 2), EMA and other hooks stay as they are. If a
family needs anything else, its row says so.

A recipe that stops has **failed**, or **fails without WAU too** if the same small recipe stops in
the same way without WAU, because of the recipe itself, the versions here or the rules above. WAU
**does not apply** where no convolution below `backbone` and `neck` trains. **Not tried** is a
family without a recipe that trains or can be read, or what needs something that is not there: a
GPU, a package, trained weights, a language model of billions of weights, keypoints in three
dimensions. A family without a row has not been tried yet.

Columns:

- **Held**: the held convolutions, out of those below `backbone` and `neck`, and why the others are
  not held.
- **Filters**: the number of filters in them.
- **Skip**: convolutions that did not compute the gradients of what is held under `hold='state'`, by
  filters / by input channels / by whole layers; [the others](speed.md) are of a kind or size for
  which this is not done. –: not tried yet, or nothing can be held.
- **Active that moved**: out of the active filters of all updates under `hold='weight'`. The others
  had no gradient, or moved by less than float32 can represent.
"""


def write_report(records: Sequence[TrialRecord], folder: Path) -> None:
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
            with suppress(PackageNotFoundError):
                found[name] = f'{version(distribution)} ({distribution})'
    return found


def page_of(records: Sequence[TrialRecord], versions: Mapping[str, str]) -> str:
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
        order = WORKS, NOT_FOR_IT, NOT_TRIED, FAILS_PLAIN, FAILED
        summary = ', '.join(f'{counts[one]} {one}' for one in order if counts[one])
        parts.append(f'## {title}\n\n{len(rows)} families: {summary}.\n')
        lines = [COLUMNS, ['---'] * len(COLUMNS), *map(row_of, rows)]
        parts.append('\n'.join(f'| {" | ".join(cells)} |' for cells in lines) + '\n')
    return '\n'.join(parts)


def row_of(record: TrialRecord) -> tuple[str, ...]:
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
    skip = ' / '.join(str(record.skipping.get(axis, '–')) for axis in AXES)
    numbers = held, f'{record.filters:,}', skip, moved
    return record.family, recipe, record.backbone or '–', *numbers, result
