"""The explorer in a process: what it leaves behind when it is closed, idle, or overtaken by the end; and what it
doesn't touch.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from explorer_bench import PATIENCE, Made, said, until
from ipywidgets.widgets import widget as widget_module

import kvsteer_lab as kv
from kvsteer_lab.explorer import threads as worker_module
from kvsteer_lab.explorer.explorer import Explorer

OTHER_WEIGHTS = "2-0123456789abcdef-01234567"


def test_close_leaves_no_thread(made: Made) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    explorer = kv.explore(made.model, made.vectors["stepwise"])
    thread = next(
        thread for thread in threading.enumerate() if thread.name == "kvsteer-explorer" and thread.ident not in before
    )
    explorer.sweep()
    start = time.perf_counter()
    explorer.close()
    assert not thread.is_alive() and time.perf_counter() - start < 1
    with pytest.raises(RuntimeError, match="closed"):
        explorer.compare()


def test_explorers_leave_the_processs_warnings_alone(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = []
    clashes: list[str] = []
    enter, leave = warnings.catch_warnings.__enter__, warnings.catch_warnings.__exit__

    def watched_enter(catcher: Any) -> Any:
        if threading.current_thread().name == "kvsteer-explorer":
            inside.append(threading.get_ident())
            if len(set(inside)) > 1 or catcher._record:
                clashes.append("recorded" if catcher._record else "two threads at once")
            time.sleep(0.001)
        return enter(catcher)

    def watched_leave(catcher: Any, *error: Any) -> None:
        if threading.current_thread().name == "kvsteer-explorer":
            inside.remove(threading.get_ident())
        leave(catcher, *error)

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", watched_enter)
    monkeypatch.setattr(warnings.catch_warnings, "__exit__", watched_leave)
    before, shown = list(warnings.filters), warnings.showwarning
    state = made.state(arms=("baseline", "cache steering"))
    both = [kv.explore(made.model, made.vectors, task=made.task, pairs=made.pairs, state=state) for _ in range(2)]
    for turn in range(3):
        for explorer in both:
            explorer.look(layer=1 + turn)
            explorer.set(cv=float(turn))
        assert all(said(explorer) == "Done." for explorer in both)
    for explorer in both:
        explorer.close()
    assert not clashes, "whoever puts the filters back last puts back those of another moment"
    assert warnings.filters == before and warnings.showwarning is shown


def test_vectors_of_other_weights_are_told_of_in_the_line(made: Made) -> None:
    own = made.vectors["stepwise"]
    with pytest.warns(UserWarning, match="other weights"):
        explorer = kv.explore(
            made.model, replace(own, card=replace(own.card, fingerprint=OTHER_WEIGHTS)), task=made.task
        )
        assert "Done. These vectors were extracted from other weights (tiny, or another adapter)" in said(explorer)
    explorer.close()


def test_close_leaves_no_widget(made: Made) -> None:
    before = set(_widgets())
    explorer = kv.explore(made.model, made.vectors, task=made.task, pairs=made.pairs)
    assert explorer.wait(PATIENCE) and len(set(_widgets()) - before) > 100
    explorer.close()
    assert not set(_widgets()) - before


def _widgets() -> Iterable[str]:
    return widget_module._instances


def test_the_thread_ends_when_there_is_nothing_to_do_and_comes_back(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.05)
    explorer.compare()
    assert explorer.wait(PATIENCE)
    until(lambda: explorer.jobs.worker._thread is None)
    explorer.set(cv=0.0)
    assert "Done" in said(explorer) and explorer.comparison.state.cv == 0.0  # type: ignore[union-attr]


def test_the_interpreter_ends_cleanly_while_work_runs() -> None:
    code = """
import kvsteer_lab as kv, time
model = kv.load("tiny")
task = kv.tasks.get("tiny-arithmetic")
pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
explorer = kv.explore(model, kv.extract(model, pairs, progress=False), task=task)
explorer.set(sweep="ck x cv", sweep_ck=tuple(range(30)), sweep_cv=tuple(range(30)), max_new_tokens=64)
explorer.sweep()
while explorer.swept is None or len(explorer.swept.done) < 2:
    time.sleep(0.01)
print("working", explorer.jobs.worker.kinds, flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "working ['sweep']" in ended.stdout and ended.returncode == 0 and not ended.stderr, (
        ended.returncode,
        ended.stderr,
    )
