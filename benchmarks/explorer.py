"""How long the explorer takes from a slider's release to the first steered token and to the whole text, and from a
click on Cancel to rest.

Measured at the widgets, without a browser: what it adds, the tests in a real one measure. Wall time, since two threads
take turns.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import models
import tyro

import kvsteer_lab as kv
from kvsteer_lab.explorer.explorer import Explorer


def main(
    model: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    tokens: int = 64,
    repeats: int = 10,
    drag: int = 20,
    threads: int = 1,
    out: Path | None = None,
) -> Path:
    """Measure one model.

    Args:
        model: one of models.NAMES.
        device: cpu or cuda.
        dtype: of the weights.
        tokens: new tokens a text at most.
        repeats: releases, drags and cancels, each so many.
        drag: values that a slider passes in a drag, a hundredth of a second apart.
        threads: of the CPU.
        out: folder for the JSON file.
    """
    import torch

    clock = measure.Clock(device, threads)
    loaded = models.load(model, device, getattr(torch, dtype))
    steering = models.steering(loaded, model)
    task = kv.tasks.get("tiny-arithmetic")
    state = kv.explorer.ExplorerState(
        task=task.name, mix={"vectors": 1.0}, ck=steering.ck, cv=steering.cv, max_new_tokens=tokens
    )
    with tempfile.TemporaryDirectory() as folder:
        explorer = kv.explore(loaded, {"vectors": steering.vectors}, task=task, state=state, folder=folder)
        try:
            explorer.wait()
            result = _measure(explorer, steering.cv, repeats, drag)
        finally:
            explorer.close()
    for name, spread in result.items():
        print(
            f"{name}: {spread['median'] * 1e3:.0f} ms [{spread['q1'] * 1e3:.0f}, {spread['q3'] * 1e3:.0f}], median and"
            f" quartiles of {spread['n']}"
        )
    settings = dict(model=model, tokens=tokens, repeats=repeats, drag=drag)
    return measure.write(
        f"explorer-{model}", measure.environment(clock, loaded.dtype) | {"clock": "wall"}, settings, result, out
    )


def _measure(explorer: Explorer, cv: float, repeats: int, drag: int) -> dict[str, Any]:
    watch = _Watch(explorer)
    slider = next(field.widget for field in explorer.page.controls.fields if field.name == "cv")
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)

    for turn in range(repeats):
        released = watch.begin()
        slider.value = cv - 0.1 * (1 + turn % 2)
        explorer.wait()
        for name in ("first steered token", "whole texts", "coloured texts"):
            note(f"slider to {name}", watch.at[name] - released)
        for value in range(drag):
            released = watch.begin()
            slider.value = cv - 0.3 - 0.1 * (value % 3)
            time.sleep(0.01)
        explorer.wait()
        note("drag's end to first steered token", watch.at["first steered token"] - released)
        note("drag's end to whole texts", watch.at["whole texts"] - released)
    explorer.set(sweep="ck x cv", sweep_ck=tuple(range(16)), sweep_cv=tuple(range(16)))
    explorer.wait()
    for turn in range(repeats):
        before = explorer.swept
        explorer.page.ablation.run.click()
        while explorer.swept is before or len(explorer.swept.done) < 1 + turn:  # type: ignore[union-attr]
            time.sleep(0.001)
        time.sleep(0.02)  # into the next chunk
        # type: ignore[union-attr]
        assert not explorer.swept.complete, "the sweep was over before it could be cancelled"
        pressed = time.perf_counter()
        explorer.page.ablation.stop.click()
        explorer.wait()
        note("cancel of a sweep", time.perf_counter() - pressed)
    return {name: measure.spread(seconds) for name, seconds in found.items()}


class _Watch:
    """When the explorer showed what."""

    def __init__(self, explorer: Explorer) -> None:
        self.at: dict[str, float] = {}
        self.running: float | None = None
        side = explorer.page.side
        begin, text, texts, measured = side.begin, side.text, side.texts, side.measured

        def start(state: kv.explorer.ExplorerState) -> None:
            self.running = state.cv
            begin(state)

        def first(arm: Any, said: str) -> None:
            text(arm, said)
            if arm == "cache steering" and self.running == explorer.state.cv:  # not one that is about to be cancelled
                self.at.setdefault("first steered token", time.perf_counter())

        def whole(comparison: Any) -> None:
            texts(comparison)
            self.at["whole texts"] = time.perf_counter()

        def coloured(comparison: Any) -> None:
            measured(comparison)
            self.at["coloured texts"] = time.perf_counter()

        side.begin, side.text, side.texts, side.measured = start, first, whole, coloured  # type: ignore[method-assign]

    def begin(self) -> float:
        self.at.clear()
        return time.perf_counter()


if __name__ == "__main__":
    tyro.cli(main)
