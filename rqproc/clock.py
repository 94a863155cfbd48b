"""The clock for what is good for a while only, as a lease is: it goes on while the machine sleeps.

``time.monotonic`` stands still during suspend on Linux, so a laptop or VM that wakes would find its
leases and its entries young. CLOCK_BOOTTIME does not (clock_gettime(2)); elsewhere
``time.monotonic`` is the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

suspend_proof: Callable[[], float] = time.monotonic
"""Return seconds since some moment before this process began."""

if hasattr(time, "CLOCK_BOOTTIME"):
    # No function of ours around it: a node looks at it many times for each request.
    suspend_proof = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
