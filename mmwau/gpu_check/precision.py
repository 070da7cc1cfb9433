"""Mixed precision in a loop of torch: what is held, and updates that the scaler skips."""

import math

import torch
from torch.optim import SGD

from mmwau.attach import attach
from mmwau.targets import AXES

from .bits import HeldBits, small_network
from .part import Finding, NotPossibleError, Place

UPDATES, SKIPPED = 6, (1, 4)
HOLDS = ('weight', 'state')  # under 'grad' what is held moves by momentum


def train_in(place: Place, precision: str) -> Finding:
    """Train with autocast and a ``GradScaler``, some losses of which are infinite.

    Args:
        place: Where.
        precision: ``'float16'`` or ``'bfloat16'``.

    Raises:
        NotPossibleError: If the GPU does not have it.
        AssertionError: If held slices moved, or anything in an update that was skipped.
    """
    if place.is_gpu and precision == 'bfloat16' and not torch.cuda.is_bf16_supported():
        raise NotPossibleError('this GPU has no bfloat16')
    counts = [_train(place, precision, hold, axis) for hold in HOLDS for axis in AXES]
    updates, skipped = map(sum, zip(*counts, strict=True))
    told = (
        f'held slices kept every bit in {updates} updates, and everything did in the {skipped} of '
        f'them that the scaler skipped ({", ".join(HOLDS)}; {", ".join(AXES)})'
    )
    return Finding(told, dict(updates=updates, skipped=skipped))


def _train(place: Place, precision: str, hold: str, axis: str) -> tuple[int, int]:
    """Train one arm; the number of its updates, and of those that were skipped."""
    device = place.device
    model = small_network(device)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    attached = attach(optimizer, model, hold=hold, axis=axis, seed=0)
    scaler = torch.amp.GradScaler(device.type, init_scale=256.0)
    bits = HeldBits(attached.layers)
    for update in range(UPDATES):
        is_poisoned = update in SKIPPED
        bits.start()
        # An update that is skipped is made again, with the same selection.
        active = attached.wau.select(attached.layers, attached.update_index)
        with torch.autocast(device.type, getattr(torch, precision)):
            output = model(torch.randn(4, 3, 16, 16, device=device))
            if output.dtype != getattr(torch, precision):
                raise AssertionError(f'the network computes in {output.dtype}, not in {precision}')
        loss = output.float().square().mean()
        scaler.scale(loss * math.inf if is_poisoned else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        bits.check(active, is_poisoned)
    attached.remove()
    return bits.updates, bits.skipped
