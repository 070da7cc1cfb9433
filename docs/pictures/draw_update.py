"""Draw the picture of the README: what two updates of WAU do to a layer. Run it from anywhere."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from mmwau import WAU
from mmwau.core.slices import Layer

OUT = Path(__file__).with_name('update.png')
ACTIVE, HELD, EDGE = '#e8743b', '#d5dae1', '#5b6675'
LAYERS = (
    ('convolution in the backbone', 8),
    ('convolution in the backbone', 8),
    ('convolution in the neck', 6),
)


def draw() -> None:
    """Draw it into :data:`OUT`."""
    matplotlib.use('agg')
    figure, axes = plt.subplots(figsize=(10, 2.8), dpi=160)
    layers = [Layer(f'layer{place}', size, ()) for place, (_, size) in enumerate(LAYERS)]
    for panel, update in enumerate((0, 1)):
        left = panel * 7.0
        axes.text(left + 2.9, 3.55, f'update {update + 1}', ha='center', weight='bold', size=11)
        active = WAU(0.5, seed=12).select(layers, update)
        for row, ((part, _), mask) in enumerate(zip(LAYERS, active, strict=True)):
            y = 2.6 - row * 1.15
            if panel == 0:
                axes.text(-0.3, y + 0.26, part, ha='right', va='center', size=9, color=EDGE)
            for place, moves in enumerate(mask.tolist()):
                filter_(axes, left + place * 0.72, y, moves)
    axes.add_patch(
        FancyArrowPatch((5.9, 1.72), (6.75, 1.72), arrowstyle='-|>', mutation_scale=16, color=EDGE)
    )
    y = -0.9
    axes.text(-0.3, y + 0.26, 'one filter', ha='right', va='center', size=9, color=EDGE)
    filter_(axes, 0.0, y, True)
    axes.text(0.75, y + 0.25, 'active: moves in this update', va='center', size=9)
    filter_(axes, 6.1, y, False)
    axes.text(6.85, y + 0.25, 'held: keeps its weights, bit for bit', va='center', size=9)
    axes.set(xlim=(-4.6, 12.8), ylim=(-1.0, 3.95), aspect='equal')
    axes.axis('off')
    figure.savefig(OUT, bbox_inches='tight', pad_inches=0.08)


def filter_(axes: plt.Axes, x: float, y: float, moves: bool) -> None:
    """Draw one filter; one that moves has an arrow in it."""
    style = 'round,pad=0.02,rounding_size=0.08'
    colour = ACTIVE if moves else HELD
    axes.add_patch(FancyBboxPatch((x, y), 0.52, 0.52, style, fc=colour, ec=EDGE, lw=0.8))
    if moves:
        arrow = FancyArrowPatch(
            (x + 0.1, y + 0.14), (x + 0.44, y + 0.4), arrowstyle='-|>', mutation_scale=8, color='w'
        )
        axes.add_patch(arrow)


if __name__ == '__main__':
    draw()
