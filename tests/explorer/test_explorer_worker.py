"""The explorer's worker: latest wins, short goes before long, cancelling, errors, memory, and no thread left behind."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from kvsteer_lab.explorer.threads import Outcome, Worker, one_line


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


class Log:
    """What happened, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def steps(
        self, name: Any, n: int = 1, gate: threading.Event | None = None, pause: float = 0.0
    ) -> Callable[[threading.Event], Iterator[None]]:
        def run(cancelled: threading.Event) -> Iterator[None]:
            for i in range(n):
                if gate is not None:
                    gate.wait(5)
                if pause:
                    cancelled.wait(pause)
                if cancelled.is_set():
                    return
                self.events.append((name, i))
                yield

        return run

    def ended(self, name: Any) -> Callable[[Outcome, str], None]:
        return lambda outcome, message: self.events.append((name, outcome, message))


def test_of_a_fast_drag_only_the_last_value_is_finished(worker: Worker) -> None:
    log, gate = Log(), threading.Event()
    for value in range(20):
        worker.submit("compare", log.steps(value, gate=gate), log.ended(value))
    gate.set()
    assert worker.wait(5)
    assert [event for event in log.events if event[1] == "done"] == [(19, "done", "")]
    assert sorted(event[0] for event in log.events if event[1] == "cancelled") == list(range(19))
    assert {event[0] for event in log.events if event[1] == 0} <= {0, 19}, "the first may have begun; none between did"


def test_other_kinds_are_not_cancelled(worker: Worker) -> None:
    log, gate = Log(), threading.Event()
    worker.submit("sweep", log.steps("sweep", gate=gate), log.ended("sweep"))
    worker.submit("compare", log.steps("compare", gate=gate), log.ended("compare"))
    gate.set()
    assert worker.wait(5)
    assert {event for event in log.events if len(event) == 3} == {("sweep", "done", ""), ("compare", "done", "")}


def test_short_work_goes_between_the_steps_of_long_work(worker: Worker) -> None:
    log, gate = Log(), threading.Event()

    def long(cancelled: threading.Event) -> Iterator[None]:
        for i in range(3):
            log.events.append(("long", i))
            if i == 0:
                gate.wait(5)
            yield

    worker.submit("sweep", long, log.ended("long"), rank=2)
    while not log.events:
        time.sleep(0.001)
    worker.submit("compare", log.steps("short", 2), log.ended("short"), rank=0)
    gate.set()
    assert worker.wait(5)
    assert [event[:2] for event in log.events] == [
        ("long", 0),
        ("short", 0),
        ("short", 1),
        ("short", "done"),
        ("long", 1),
        ("long", 2),
        ("long", "done"),
    ]


def test_cancel_ends_running_and_waiting_work(worker: Worker) -> None:
    log = Log()
    worker.submit("sweep", log.steps("sweep", 1000, pause=0.01), log.ended("sweep"))
    worker.submit("compare", log.steps("compare", 1000, pause=0.01), log.ended("compare"), rank=1)
    time.sleep(0.05)
    start = time.perf_counter()
    worker.cancel()
    assert worker.wait(5) and time.perf_counter() - start < 1
    assert [event[1] for event in log.events if len(event) == 3] == ["cancelled", "cancelled"]


def test_cancel_of_one_kind_leaves_the_others(worker: Worker) -> None:
    log, gate = Log(), threading.Event()
    worker.submit("a", log.steps("a", gate=gate), log.ended("a"))
    worker.submit("b", log.steps("b", gate=gate), log.ended("b"))
    worker.cancel("b")
    gate.set()
    assert worker.wait(5)
    assert {event for event in log.events if len(event) == 3} == {("a", "done", ""), ("b", "cancelled", "")}


def _real_want_of_memory() -> Exception:
    """What torch itself raises on a CPU."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    return caught.value


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("The prompt is empty;\n write something."), "The prompt is empty; write something."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "Out of memory; ask for fewer"),
        (MemoryError(), "Out of memory; ask for fewer"),
        (_real_want_of_memory(), "Out of memory; ask for fewer"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate"
            ),
            "Out of memory; ask for fewer",
        ),
        (KeyError("layers"), "KeyError: 'layers'"),
        (OSError("No space left on device"), "No space left on device"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_an_error_is_one_line_and_the_worker_lives_on(worker: Worker, error: Exception, line: str) -> None:
    log = Log()

    def fail(cancelled: threading.Event) -> Iterator[None]:
        yield
        raise error

    worker.submit("compare", fail, log.ended("bad"))
    assert worker.wait(5)
    ((_, outcome, message),) = log.events
    assert outcome == "failed" and message.startswith(line) and "\n" not in message
    assert type(error).__name__ in worker.error and "in fail" in worker.error, "the traceback is kept as text"
    worker.submit("compare", log.steps("good"), log.ended("good"))
    assert worker.wait(5) and log.events[-1] == ("good", "done", "")


def test_a_failure_keeps_nothing_that_it_had_made(worker: Worker) -> None:
    made: list[Any] = []
    log = Log()

    def allocate() -> None:
        big = torch.ones(1000)
        made.append(weakref.ref(big))
        raise RuntimeError("CUDA out of memory")

    def fail(cancelled: threading.Event) -> Iterator[None]:
        other = torch.ones(1000)
        made.append(weakref.ref(other))
        yield
        try:
            allocate()
        except RuntimeError as error:
            raise torch.OutOfMemoryError("Out of memory with a single row") from error

    left: list[int] = []

    def ended(outcome: Outcome, message: str) -> None:
        left.append(sum(own() is not None for own in made))
        log.ended("fail")(outcome, message)

    worker.submit("compare", fail, ended)
    assert worker.wait(5) and log.events[0][1] == "failed" and "allocate" in worker.error
    assert len(made) == 2 and left == [0], "what ran out of memory still holds it"


def test_an_error_of_cancelled_work_is_no_failure(worker: Worker) -> None:
    log, began = Log(), threading.Event()

    def fail(cancelled: threading.Event) -> Iterator[None]:
        began.set()
        cancelled.wait(5)
        raise RuntimeError("cut off")
        yield

    worker.submit("compare", fail, log.ended("cut"))
    began.wait(5)
    worker.cancel()
    assert worker.wait(5) and log.events == [("cut", "cancelled", "")]


def test_a_view_that_fails_does_not_end_the_thread(worker: Worker) -> None:
    log = Log()

    def broken(outcome: Outcome, message: str) -> None:
        raise RuntimeError("the view is gone")

    worker.submit("a", log.steps("a"), broken)
    worker.submit("b", log.steps("b"), log.ended("b"))
    assert worker.wait(5) and log.events[-1] == ("b", "done", "")


def test_close_ends_the_thread_and_what_runs() -> None:
    worker, log = Worker(), Log()
    worker.submit("sweep", log.steps("sweep", 1000, pause=0.01), log.ended("sweep"))
    before = [t for t in threading.enumerate() if t.name == "kvsteer-explorer"]
    assert before
    worker.close()
    assert not any(t.is_alive() for t in before) and log.events[-1] == ("sweep", "cancelled", "")
    with pytest.raises(RuntimeError, match=r"The explorer is closed; call kv\.explore again"):
        worker.submit("sweep", log.steps("again"), log.ended("again"))
    worker.close()


def test_wait_tells_when_time_is_up(worker: Worker) -> None:
    log, gate = Log(), threading.Event()
    worker.submit("a", log.steps("a", gate=gate), log.ended("a"))
    assert not worker.wait(0.02)
    assert worker.kinds == ["a"]
    gate.set()
    assert worker.wait(5) and worker.kinds == []


def test_one_line_is_short() -> None:
    assert len(one_line(ValueError("x" * 5000))) <= 400
