"""A bench and a state on the bundled model, for the explorer's tests."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import kvsteer_lab as kv
from kvsteer_lab.widgets.bench import Bench
from kvsteer_lab.widgets.comparing import Comparison, compare_arms
from kvsteer_lab.widgets.state import ARMS, ExplorerState
from kvsteer_lab.widgets.sweeping import Sweep, run_sweep

STYLES = ("stepwise", "analogical")


@dataclass(frozen=True)
class Made:
    """What is extracted once for all tests."""

    model: kv.Model
    task: Any
    pairs: dict[str, kv.ContrastiveSet]
    vectors: dict[str, kv.KVVectors]

    def bench(self) -> Bench:
        return Bench(self.model, dict(self.vectors), pairs=dict(self.pairs), tasks={self.task.name: self.task})

    def state(self, **changes: Any) -> ExplorerState:
        """All arms on a development question."""
        base = dict(task=self.task.name, mix={"stepwise": 1.0}, arms=ARMS, max_new_tokens=24)
        return ExplorerState().changed(base | changes)


def make(model: kv.Model) -> Made:
    task = kv.tasks.get("tiny-arithmetic")
    pairs = {style: kv.ContrastiveSet.few_shot(task, model.tokenizer, style=style, n=12, shots=2) for style in STYLES}
    return Made(model, task, pairs, {style: kv.extract(model, own, progress=False) for style, own in pairs.items()})


def compared(bench: Bench, state: ExplorerState) -> Comparison:
    """A comparison, measured."""
    found: list[Comparison] = []
    for _ in compare_arms(bench, state, threading.Event(), lambda comparison: None, found.append, lambda arm, text: None):
        pass
    return found[0]


def swept(bench: Bench, state: ExplorerState) -> Sweep:
    """A sweep, complete."""
    found: list[Sweep] = []
    for _ in run_sweep(bench, state, threading.Event(), found.append):
        pass
    return found[-1]
