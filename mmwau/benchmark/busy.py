"""How long a training step takes beside busy processes, as the threads of OpenMP wait or not."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from mmwau.core.openmp import SPINS

from .rounds import Progress

# What libgomp does by itself, as OMP_DISPLAY_ENV=verbose shows it; and what mmwau.core.openmp sets.
SPIN_COUNTS = ('300000', SPINS)
BUSY = (0, 1, 2)
BUSY_LOOP = 'while True: pass'
# For which each process steps; three steps count at least.
SECONDS = 8
# Prints the seconds of each step of a ResNet-18, batch 4 at 160x160.
STEPS = """
import json, sys, time, torch, torchvision
model = torchvision.models.resnet18()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
images, seconds = torch.randn(4, 3, 160, 160), []
while len(seconds) < 5 or sum(seconds[2:]) < float(sys.argv[1]):
    start = time.perf_counter()
    model(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds[2:]))
"""


def time_beside_busy_processes(rounds: int, tick: Progress) -> dict[str, dict[str, float]]:
    """Time training steps with as many threads as cores, beside loops that never rest.

    Each measurement is a process of its own, since libgomp reads its settings once. All are made in
    turn within a round, so that what else the machine does meets all of them.

    Returns:
        For each number of busy processes, as text, the median seconds of a step by spin count.
    """
    seconds: dict[str, dict[str, list[float]]] = {
        str(busy): {spins: [] for spins in SPIN_COUNTS} for busy in BUSY
    }
    for _ in range(rounds):
        for busy in BUSY:
            for spins in SPIN_COUNTS:
                seconds[str(busy)][spins] += _time_steps(busy, spins)
                tick()
    return {
        busy: {spins: statistics.median(each) for spins, each in of_busy.items()}
        for busy, of_busy in seconds.items()
    }


def _time_steps(busy: int, spins: str) -> list[float]:
    env = {**os.environ, 'GOMP_SPINCOUNT': spins}
    env.pop('OMP_WAIT_POLICY', None)
    with ExitStack() as stack:
        for _ in range(busy):
            loop = stack.enter_context(subprocess.Popen([sys.executable, '-c', BUSY_LOOP]))
            stack.callback(loop.kill)
        command = [sys.executable, '-c', STEPS, str(SECONDS)]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def rows_of(results: Mapping[str, Mapping[str, float]]) -> list[tuple[str, ...]]:
    """Rows of a table: busy processes, milliseconds of a step by spin count, and their ratio."""
    rows: list[tuple[str, ...]] = []
    for busy, seconds in results.items():
        default, ours = (seconds[spins] for spins in SPIN_COUNTS)
        rows.append((busy, f'{1000 * default:.0f}', f'{1000 * ours:.0f}', f'{ours / default:.2f}'))
    return rows
