"""What a long training was like: time and memory over the updates, drawn and in a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mmwau.reporting.plots import legend_above, styles, tidy

LABELS = {
    'milliseconds': 'processor time of an update (ms)',
    'saving': 'of a checkpoint (ms)',
    'memory': 'memory of the process (MiB)',
}


def draw_points(runs: Mapping[str, Sequence[Mapping]], path: Path) -> None:
    """Draw time and memory over the updates, from 0 on."""
    figure = Figure(figsize=(10, 3.4), layout='constrained')
    panels = figure.subplots(1, 3)
    for axes, (key, label) in zip(panels, LABELS.items(), strict=True):
        for name, look in styles(runs).items():
            at, values = ([point[what] for point in runs[name]] for what in ('update', key))
            axes.plot(at, values, color=look['color'], label=name, linewidth=1.8)
        axes.set_ylim(0, 1.1 * max(point[key] for points in runs.values() for point in points))
        axes.set_title(label, fontsize=10)
        axes.set_xlabel('updates')
        axes.set_xlim(left=0)
        tidy(axes)
    legend_above(figure, panels[0])
    figure.savefig(path, dpi=130)


def summary(name: str, points: Sequence[Mapping]) -> str:
    """Medians of the second tenth of a training and of the last, in a line."""
    tenth = max(1, len(points) // 10)
    told = []
    for key, label in LABELS.items():
        early, late = (
            np.median([point[key] for point in part])
            for part in (points[tenth : 2 * tenth], points[-tenth:])
        )
        told.append(f'{label}: {early:.2f}, then {late:.2f}')
    return f'{name}: {"; ".join(told)}'
