"""How threads wait for each other."""

from __future__ import annotations

import os
import sys

_SAID_ALREADY = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def let_threads_sleep() -> None:
    """Have PyTorch's threads sleep while they wait, unless the caller's environment says how they shall wait.

    By default they spin, which on a busy machine takes the processor from the very thread that is waited for: two
    threads are then many times as slow as one. The OpenMP runtime reads this when PyTorch is imported, so it does
    nothing afterwards. The number of threads is left alone: set `OMP_NUM_THREADS` or call `torch.set_num_threads`.

    >>> let_threads_sleep()
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _SAID_ALREADY):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
