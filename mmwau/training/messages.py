"""What WAU says of itself in a log, as texts with a level."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mmwau.core.slices import Layer, are_whole, list_layers
from mmwau.targets import DEFAULT_TARGETS, is_below
from mmwau.wau import WAU


class Message(NamedTuple):
    """A line for the log, with one of the levels of :mod:`logging`."""

    level: int
    text: str


def about_layers(
    wau: WAU,
    axis: str,
    targets: tuple[str, ...],
    layers: Mapping[str, Layer],
    left_out: Mapping[str, str],
) -> Iterator[Message]:
    """Say which layers are held below the targets, and which are left out for which reason."""
    if axis == 'layer':
        held = 'whole layers, which are'
        num_filters = sum(layer.num_filters for layer in layers.values())
        num_parameters = sum(layer.num_parameters for layer in layers.values())
        parts = f'{num_filters} filters and {num_parameters} parameters'
    else:
        held = 'slices of'
        num_slices = sum(layer.num_slices for layer in layers.values())
        parts = f'{num_slices} {"filters" if axis == "out" else "input channels"}'
    yield Message(
        logging.INFO,
        f'WAU holds {held} {len(layers)} convolutions below {", ".join(targets)} '
        f'with {parts}: update_ratio={wau.update_ratio}, axis={axis!r}, '
        f'sampler={wau.sampler!r}, hold={wau.hold!r}, rescale={wau.rescale}, seed={wau.seed}',
    )
    yield from _about_small_layers(wau, layers)
    for reason, count in Counter(left_out.values()).items():
        names = [name for name, why in left_out.items() if why == reason]
        # What is frozen is so on purpose; of the rest every name is worth knowing.
        expected = reason.startswith('frozen')
        some = _some(names) if expected else ', '.join(names)
        yield Message(
            logging.INFO if expected else logging.WARNING,
            f'WAU leaves out {count} convolutions ({reason}): {some}',
        )
    for prefix in targets:
        if not any(is_below(name, prefix) for name in (*layers, *left_out)):
            yield Message(
                # That a classifier has no neck is no fault; a name that was given may be.
                logging.INFO if targets == DEFAULT_TARGETS else logging.WARNING,
                f'WAU finds no convolution below {prefix!r}, one of its targets',
            )


def _about_small_layers(wau: WAU, layers: Mapping[str, Layer]) -> Iterator[Message]:
    if wau.sampler == 'bernoulli':
        return
    if are_whole(list_layers(layers)):
        if wau.num_drawn(len(layers)) == 0:
            result = 'none ever moves' if wau.min_active == 0 else 'one moves'
            yield Message(
                logging.WARNING,
                f'WAU: at this ratio the number of draws from {len(layers)} layers is rounded to '
                f'0, so that {result} (min_active={wau.min_active})',
            )
        return
    small = [name for name, layer in layers.items() if wau.num_drawn(layer.num_slices) == 0]
    if small:
        result = 'which never move' if wau.min_active == 0 else 'of which one slice moves'
        yield Message(
            logging.WARNING if wau.min_active == 0 else logging.INFO,
            f'WAU: at this ratio the number of draws is rounded to 0 in {len(small)} layers, '
            f'{result} (min_active={wau.min_active}): {_some(small)}',
        )


def about_skipping(full: Mapping[str, str], num_layers: int) -> Iterator[Message]:
    """Say in how many layers gradients are skipped, and why those of others are in full."""
    skipping = num_layers - len(full)
    yield Message(
        logging.INFO if skipping else logging.WARNING,
        f'WAU skips the gradients of held slices in {skipping} of {num_layers} layers',
    )
    for reason, count in Counter(full.values()).items():
        yield Message(logging.INFO, f'WAU computes all gradients of {count} layers: {reason}')


def about_changes(before: Mapping | None, options: Mapping) -> Iterator[Message]:
    """Say what changed since the checkpoint that training resumes from.

    There are no options before if it was trained without WAU.
    """
    if before is None:
        yield Message(logging.INFO, 'WAU: the run was trained without WAU until here')
        return
    for name, value in options.items():
        if value != before.get(name, value):
            yield Message(
                logging.WARNING,
                f'WAU: {name} was {before[name]!r} until here and is {value!r} from now on',
            )


def _some(names: list[str]) -> str:
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
