"""The measure of the tests that say that something is quick."""

import functools
import time

from timing import takes_less_than


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_one_slow_try_is_forgiven_and_slowness_is_not() -> None:
    durations = iter([0.05, 0.05, 0])
    assert takes_less_than(0.04, lambda: burn(next(durations)))
    assert not takes_less_than(0.04, lambda: burn(0.05))


def test_what_is_remembered_does_not_count() -> None:
    @functools.lru_cache
    def read() -> None:
        burn(0.05)

    read.__module__ = "kvsteer_lab.tasks.rules"
    assert not takes_less_than(0.04, read)


def test_waiting_is_not_computing() -> None:
    assert takes_less_than(0.04, lambda: time.sleep(0.1))
