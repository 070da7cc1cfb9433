"""Measurements of networks with filters removed: which there are, and a file that keeps them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from mmwau.files.json_text import to_json
from mmwau.files.whole import write_whole


@dataclass(frozen=True)
class Point:
    """A measurement: one evaluation of a checkpoint with some filters removed.

    Args:
        checkpoint: SHA-256 of the checkpoint file.
        order: Order of removal, or None for the whole network.
        seed: Of the random order.
        layer: The layer that loses filters, or None for all at once.
        fraction: Of each layer's filters, those that are removed, in [0, 1).
    """

    checkpoint: str
    order: str | None = None
    seed: int | None = None
    layer: str | None = None
    fraction: float = 0.0


@dataclass(frozen=True)
class Curves:
    """What is measured and shown.

    Args:
        checkpoints: SHA-256 of each checkpoint by its label.
        orders: Orders of removal.
        seeds: Of the random order.
        fractions: To remove from all layers at once, each in (0, 1), ascending.
        layers: Number of filters of the layers that are looked at one by one, by name.
        layer_fractions: To remove from one layer at a time, each in (0, 1), ascending.
    """

    checkpoints: Mapping[str, str]
    orders: Sequence[str]
    seeds: Sequence[int]
    fractions: Sequence[float]
    layers: Mapping[str, int]
    layer_fractions: Sequence[float]

    def points(self, label: str) -> Iterator[Point]:
        """All measurements of a checkpoint, the whole network first."""
        yield Point(self.checkpoints[label])
        for order, fraction in product(self.orders, self.fractions):
            yield from self.repeats(label, order, fraction)
        for layer, order, fraction in product(self.layers, self.orders, self.layer_fractions):
            yield from self.repeats(label, order, fraction, layer)

    def repeats(
        self, label: str, order: str, fraction: float, layer: str | None = None
    ) -> list[Point]:
        """The measurements of one place in a curve, one for each seed of the random order."""
        seeds = self.seeds if order == 'random' else [None]
        return [Point(self.checkpoints[label], order, seed, layer, fraction) for seed in seeds]


class Results:
    """Measurements in a JSON file, which is whole after each of them.

    Args:
        path: The file; measurements in it are kept.
        identity: What was measured on what: settings that may not differ within a file. Under
            ``'checkpoints'`` the path of each checkpoint by its SHA-256.
        overwrite: Whether to start over.

    Raises:
        ValueError: If the file has results of something else, or can't be read.
    """

    def __init__(self, path: str | Path, identity: Mapping, overwrite: bool = False):
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity, default=str))
        self.metrics: dict[Point, dict[str, float]] = {}
        if overwrite or not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text())
            earlier = content['identity']
            self.metrics = {
                Point(**point['point']): point['metrics'] for point in content['points']
            }
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{self.path} can not be read ({type(error).__name__}: {error}). Name another '
                '--work-dir, or start over with --overwrite'
            ) from error
        differences = list(_differences(earlier, self.identity))
        if differences:
            raise ValueError(
                f'{self.path} holds results of something else:\n  '
                + '\n  '.join(differences[:8])
                + '\nName another --work-dir, or remove these results with --overwrite'
            )

    def add(self, point: Point, metrics: Mapping[str, float]) -> None:
        """Add a measurement and write the file."""
        self.metrics[point] = dict(metrics)
        points = [
            {'point': asdict(point), 'metrics': metrics} for point, metrics in self.metrics.items()
        ]
        # One line for each measurement.
        lines = ',\n'.join(to_json(point, indent=None) for point in points)
        content = f'{{"identity": {json.dumps(self.identity)},\n"points": [\n{lines}\n]}}\n'
        write_whole(content.encode(), self.path)


def describe(point: Point, label: str) -> str:
    """What a measurement is of, for messages."""
    if point.order is None:
        return f'{label}, whole'
    seed = '' if point.seed is None else f' (seed {point.seed})'
    where = 'all layers' if point.layer is None else point.layer
    return f'{label}, {point.order}{seed}, {100 * point.fraction:.3g} % of {where}'


def _differences(earlier: object, now: object, name: str = '') -> Iterator[str]:
    """Sentences on what differs, by the dotted name of each setting."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in {**earlier, **now}:
            inner = f'{name}.{key}' if name else key
            if name == 'checkpoints' and key not in now:
                yield f'a checkpoint that is not among these, or was another file: {earlier[key]}'
            elif name != 'checkpoints':  # one more checkpoint is welcome
                yield from _differences(earlier.get(key), now.get(key), inner)
    elif earlier != now:
        yield f'{name}: {_short(earlier)} there, {_short(now)} now'


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f'{text[:117]}...'
