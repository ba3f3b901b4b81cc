"""One lock for all use of models in this process.

A trace of nnsight, a cache that is being filled, hooks that are installed for one forward pass, and transformers while
it loads a checkpoint are all state of the whole process. Whatever loads, traces or runs a model therefore holds `LOCK`:
either lexically (`with LOCK:`) or as a function decorated with `locked`. The lock may be taken again by the thread that
holds it, so functions that take it may call each other.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class ModelLock:
    """A re-entrant lock that knows about forks.

    In a forked child, PyTorch computes with a single thread: its thread pool was not forked, and would be waited for
    without end. A child that was forked while another thread used a model refuses to use one: half of that thread's
    work was copied, and nobody will finish it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._owner: int | None = None
        self._forked = False
        self._spoilt = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def __enter__(self) -> ModelLock:
        self.acquire()
        return self

    def acquire(self, timeout: float = -1) -> bool:
        """Take the lock.

        Args:
            timeout: seconds to wait for it at most; negative waits as long as it takes.

        Returns:
            Whether it was taken.

        Raises:
            RuntimeError: in a child that was forked while another thread used a model.
        """
        if self._spoilt:
            raise RuntimeError(
                "This process was forked while another thread used a model, so models can't be used in it; start"
                " workers with multiprocessing's 'spawn' method, or fork when nothing runs."
            )
        if not self._lock.acquire(timeout=timeout):
            return False
        self._depth += 1
        self._owner = threading.get_ident()
        if self._forked:
            torch.set_num_threads(1)
            self._forked = False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock back, as often as it was taken."""
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
        self._lock.release()

    @property
    def held(self) -> bool:
        """Whether the calling thread holds the lock."""
        return self._owner == threading.get_ident()

    def _after_fork(self) -> None:
        if self._owner == threading.get_ident():  # the thread that forked held it, and goes on holding it here
            self._forked = True
            return
        self._spoilt = self._spoilt or self._owner is not None
        self._lock, self._depth, self._owner, self._forked = threading.RLock(), 0, None, True


LOCK = ModelLock()
"""Held around all use of a model: nnsight is not thread-safe, and neither is a cache, nor transformers while it
loads.
"""


def locked(function: Callable[P, R]) -> Callable[P, R]:
    """A function that holds `LOCK` while it runs. Not for generators, which run after they have returned.

    Args:
        function: what loads, traces or runs a model.

    Returns:
        The same function, locked.

    >>> @locked
    ... def held() -> bool:
    ...     return LOCK.held
    >>> held(), LOCK.held
    (True, False)
    """

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with LOCK:
            return function(*args, **kwargs)

    return inside
