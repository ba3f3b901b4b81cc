"""Whether computing is quick of itself, on a machine that does other things, too."""

import functools
import gc
import time
from collections.abc import Callable


def takes_less_than(seconds: float, compute: Callable[[], object], tries: int = 3) -> bool:
    """Whether this thread's processor spends less on it, in one of so many tries, none of which finds it remembered.

    What else happens only adds: another process' turn, caches of the processor that were pushed out, a collection of
    a long test run's garbage (a second, at the end of the suite). What is slow of itself is slow each time.
    """
    for attempt in range(tries):
        if attempt:
            _forget()
        if _once(compute) < seconds:
            return True
    return False


def _once(compute: Callable[[], object]) -> float:
    collecting = gc.isenabled()
    gc.disable()
    try:
        begun = time.thread_time()
        compute()
        return time.thread_time() - begun
    finally:
        if collecting:
            gc.enable()


def _forget() -> None:
    """Empties what the package's functions remember."""
    for found in gc.get_objects():
        if isinstance(found, functools._lru_cache_wrapper) and found.__module__.startswith("kvsteer_lab"):
            found.cache_clear()
