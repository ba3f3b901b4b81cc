"""All that the explorer does with threads.

A `Worker` is one thread with a queue: the latest request wins, short work goes before long work, and all of it can be
cancelled between two tokens. A reader's clicks come in the kernel's own thread. Both threads change the state and the
widgets, one at a time: each holds the explorer's `view_lock()` while it does. `OwnChanges` tells a widget's change by a
reader from one that the program makes while it shows a state.
"""

from __future__ import annotations

import atexit
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from weakref import WeakSet

from .._util.batching import free_memory, is_out_of_memory

IDLE_SECONDS = 5.0
"""How long the thread waits for more work before it ends; the next work starts another."""
Outcome = Literal["done", "cancelled", "failed"]


class Cancelled(threading.Event):
    """Set to cancel a piece of work.

    Attributes:
        urgent: set while work of a smaller rank waits: a long step may be dropped then, and done later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.urgent = threading.Event()


class Interrupted(Cancelled):
    """Is set where a step should end: it is cancelled, or more urgent work waits."""

    def __init__(self, cancelled: Cancelled) -> None:
        super().__init__()
        self._cancelled = cancelled

    def is_set(self) -> bool:
        return self._cancelled.is_set() or self._cancelled.urgent.is_set()


Steps = Callable[[Cancelled], Iterator[None]]
"""Work in steps: it is given the event that cancels it, looks at the event between tokens, and yields where other work
may go first.
"""
TABLES = threading.Lock()
"""Held where explorers' threads work with pandas or scikit-learn: these replace the process's warning filters and put
them back, which two threads must not do at once. Take it before a `view_lock`, never while holding one.
"""
view_lock = threading.RLock
"""Makes the lock of one explorer, held by whoever changes its state or its widgets."""


class CancelledError(Exception):
    """The work was cancelled; what it had begun is dropped."""


class OwnChanges:
    """Marks the time in which this thread shows a state in widgets: their changes are not a reader's.

    It is a context manager. Another thread may show a state while a reader moves the same control, so the mark holds
    for one thread alone.

    >>> own = OwnChanges()
    >>> with own:
    ...     own.here
    True
    >>> own.here
    False
    """

    def __init__(self) -> None:
        self._thread: int | None = None

    def __enter__(self) -> OwnChanges:
        self._thread = threading.get_ident()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread = None

    @property
    def here(self) -> bool:
        """Whether this thread is showing a state."""
        return self._thread == threading.get_ident()


@dataclass(eq=False)
class Job:
    """One piece of work.

    Attributes:
        kind: what it is about; a newer job of the same kind takes its place.
        steps: the work.
        on_end: called in the worker's thread when it has ended, with the outcome and, if it failed, one line that says
            why.
        rank: smaller goes first, between the steps of others.
        number: in the order of submission.
        cancelled: set to cancel it.
        outcome: how it ended; `None` until then.
        message: why it failed.
    """

    kind: str
    steps: Steps
    on_end: Callable[[Outcome, str], None]
    rank: int
    number: int
    cancelled: Cancelled = field(default_factory=Cancelled)
    outcome: Outcome | None = None
    message: str = ""
    started: Iterator[None] | None = None


_WORKERS: WeakSet[Worker] = WeakSet()


class Worker:
    """A thread and its queue. Nothing that is submitted blocks the caller, and no error ends the thread.

    At the interpreter's exit all workers are closed: a thread that is in the middle of torch's code then would take the
    process down with it.
    """

    def __init__(self) -> None:
        _WORKERS.add(self)
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._count = 0
        self._thread: threading.Thread | None = None
        self.error = ""
        """The last failure's traceback; as text, since an exception keeps the tensors of all its frames."""

    def submit(self, kind: str, steps: Steps, on_end: Callable[[Outcome, str], None], rank: int = 0) -> Job:
        """Queue work; a waiting or running job of the same kind is cancelled.

        Raises:
            RuntimeError: the worker is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("The explorer is closed; call kv.explore again.")
            for other in self._jobs:
                if other.kind == kind:
                    other.cancelled.set()
                elif other.rank > rank:
                    other.cancelled.urgent.set()
            self._count += 1
            job = Job(kind, steps, on_end, rank, self._count)
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="kvsteer-explorer", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def cancel(self, kind: str | None = None) -> None:
        """Cancel the jobs of one kind, or all of them; they end at their next token."""
        with self._changed:
            for job in self._jobs:
                if kind in (None, job.kind):
                    job.cancelled.set()
            self._changed.notify_all()

    @property
    def kinds(self) -> list[str]:
        """What waits or runs and isn't cancelled; a job that ends is not among them."""
        with self._changed:
            return [job.kind for job in self._jobs if job.outcome is None and not job.cancelled.is_set()]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits or runs; `False` if that takes longer than `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._jobs:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self) -> None:
        """Cancel everything and end the thread."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.cancelled.set()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # --- in the thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next()) is not None:
            outcome, message, scarce = self._step(job)
            if scarce:  # only now are the error's frames gone, and what they held
                free_memory()
            if outcome is not None:
                self._end(job, outcome, message)

    def _step(self, job: Job) -> tuple[Outcome | None, str, bool]:
        """One step of a job: how the job ended if it did, the reason if it failed, and whether that was want of
        memory.
        """
        try:
            if job.cancelled.is_set():
                return "cancelled", "", False
            if job.started is None:
                job.started = job.steps(job.cancelled)
            job.cancelled.urgent.clear()  # nothing of a smaller rank waited when this step was chosen
            next(job.started)
        except StopIteration:
            return "cancelled" if job.cancelled.is_set() else "done", "", False
        except Exception as error:
            line, scarce = one_line(error), is_out_of_memory(error)
            if not job.cancelled.is_set():
                self.error = "".join(traceback.format_exception(error))
            return ("cancelled", "", scarce) if job.cancelled.is_set() else ("failed", line, scarce)
        return None, "", False

    def _next(self) -> Job | None:
        """The job whose step is done next: cancelled ones first, so that they are out of the way, then by rank and age.
        `None` ends the thread.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._jobs or self._closed, IDLE_SECONDS) or not self._jobs:
                self._thread = None
                return None
            return min(self._jobs, key=lambda job: (not job.cancelled.is_set(), job.rank, job.number))

    def _end(self, job: Job, outcome: Outcome, message: str = "") -> None:
        try:
            if job.started is not None:
                job.started.close()  # type: ignore[attr-defined]
            job.outcome, job.message = outcome, message
            job.on_end(outcome, message)
        except Exception as error:  # a broken view mustn't end the thread
            self.error = "".join(traceback.format_exception(error))
        finally:
            with self._changed:
                self._jobs.remove(job)
                self._changed.notify_all()


def one_line(error: BaseException) -> str:
    """An error as one line for a reader."""
    text = " ".join(str(error).split())[:400]
    if is_out_of_memory(error):
        return "Out of memory; ask for fewer new tokens or questions, compare less at a time, or shorten the prompt."
    if isinstance(error, ValueError | OSError | RuntimeError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@atexit.register
def _close_all() -> None:
    for worker in list(_WORKERS):
        worker.close()
