"""A workspace and a state on the bundled model, and how a reader finds their way in the widgets: for the explorer's
tests.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ipywidgets as w

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer
from kvsteer_lab.explorer.results.comparison import Comparison
from kvsteer_lab.explorer.results.sweep import Sweep
from kvsteer_lab.explorer.state import ARMS, ExplorerState
from kvsteer_lab.explorer.threads import Cancelled
from kvsteer_lab.explorer.work.comparing import compare_arms
from kvsteer_lab.explorer.work.sweeping import run_sweep
from kvsteer_lab.explorer.workspace import Workspace

STYLES = ("stepwise", "analogical")


@dataclass(frozen=True)
class Made:
    """What is extracted once for all tests."""

    model: kv.Model
    task: Any
    pairs: dict[str, kv.ContrastiveSet]
    vectors: dict[str, kv.KVVectors]

    def workspace(self) -> Workspace:
        return Workspace(self.model, dict(self.vectors), pairs=dict(self.pairs), tasks={self.task.name: self.task})

    def state(self, **changes: Any) -> ExplorerState:
        """All arms on a development question."""
        base = dict(task=self.task.name, mix={"stepwise": 1.0}, arms=ARMS, max_new_tokens=24)
        return ExplorerState().changed(base | changes)


def make(model: kv.Model) -> Made:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = {style: kv.ContrastiveSet.few_shot(task, model.tokenizer, style=style, n=12, shots=2) for style in STYLES}
    return Made(model, task, pairs, {style: kv.extract(model, own, progress=False) for style, own in pairs.items()})


def compared(workspace: Workspace, state: ExplorerState) -> Comparison:
    """A comparison, measured."""
    found: list[Comparison] = []
    for _ in compare_arms(
        workspace, state, Cancelled(), lambda comparison: None, found.append, lambda arm, text, tokens: None
    ):
        pass
    return found[0]


def swept(workspace: Workspace, state: ExplorerState) -> Sweep:
    """A sweep, complete."""
    found: list[Sweep] = []
    for _ in run_sweep(workspace, state, Cancelled(), found.append):
        pass
    return found[-1]


# --- widgets ------------------------------------------------------------------------------------------------------

PATIENCE = 60


def find(explorer: Explorer, css: str) -> w.Widget:
    """The one widget with a class."""
    found = [widget for widget in walk(explorer.page.ui) if css in getattr(widget, "_dom_classes", ())]
    assert len(found) == 1, f"{len(found)} widgets have the class {css}"
    return found[0]


def walk(widget: w.Widget) -> Iterator[w.Widget]:
    """A widget and all within."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)


def text_of(explorer: Explorer, arm: str) -> str:
    """The text that is shown for an arm."""
    body = find(explorer, f"kv-arm-{arm.replace(' ', '-')}").value.split('<div class="kv-text">')[1].split("</div>")[0]
    return re.sub("<[^>]*>", "", body).removesuffix("[end]")


def said(explorer: Explorer, where: str = "kv-status") -> str:
    """What a line says when all work is done."""
    assert explorer.wait(PATIENCE)
    return re.sub("<[^>]*>", "", find(explorer, where).value)


def until(ready: Callable[[], bool]) -> None:
    """Wait for something that the worker does."""
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.002)


def busy(explorer: Explorer) -> threading.Event:
    """Keep the worker from all other work until the event is set."""
    began, gate = threading.Event(), threading.Event()

    def steps(cancelled: threading.Event) -> Iterator[None]:
        began.set()
        gate.wait(PATIENCE)
        yield

    explorer.jobs.worker.submit("busy", steps, lambda outcome, message: None, rank=-1)
    assert began.wait(PATIENCE)
    return gate
