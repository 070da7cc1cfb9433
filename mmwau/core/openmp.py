"""How threads of OpenMP wait for each other; it counts before torch is imported.

libgomp, the OpenMP of torch on Linux, lets threads spin at every barrier for some hundred thousand
turns. Where other processes want the cores too, a thread that spins keeps the one that it waits for
from running, and training becomes several times slower. After a thousand turns nothing is lost on
a quiet machine (docs/speed.md has what was measured).

libgomp reads the environment when it is loaded. So scripts import this module before torch, and
processes that they start inherit what is set. Who has set one of the two variables has chosen.
"""

import os

SPINS = '1000'

if not {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'} & os.environ.keys():
    os.environ['GOMP_SPINCOUNT'] = SPINS
