"""The explorer of an earlier commit and today, on a real model in one run: from a slider's release to the first steered
token, a sweep's seconds a cell, and from Cancel to rest, alone and while another thread has the model.

Each commit has a process of its own, one after the other. Seconds are the process's CPU time, and sweeps choose their
chunks by it: as on an idle machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import measure
import tyro

HERE = Path(__file__).resolve().parent


def main(
    before: str = "282bf86",
    model: str = "smollm2-135m",
    tokens: int = 24,
    cells: int = 16,
    questions: int = 2,
    repeats: int = 3,
    part: Literal["both", "this"] = "both",
    out: Path | None = None,
) -> Path:
    """Measure both.

    Args:
        before: the earlier commit.
        model: what `kv.load` takes.
        tokens: new tokens a text at most.
        cells, questions: of the sweep over c_v.
        repeats: of releases and cancels.
        part: `this` measures what is imported, and writes no more than its numbers to `out`; the other value starts
            such processes.
        out: folder for the JSON file; of `this`, the file.
    """
    if part == "this":
        assert out is not None
        out.write_text(json.dumps(_measure(model, tokens, cells, questions, repeats)), encoding="utf-8")
        return out
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run(
            ["git", "-C", str(HERE), "worktree", "add", "--quiet", "--detach", str(tree), before], check=True
        )
        try:
            for name, root in (("before", tree), ("today", HERE.parent)):
                found = Path(folder) / f"{name}.json"
                asked = dict(model=model, tokens=tokens, cells=cells, questions=questions, repeats=repeats)
                words = [word for key, value in asked.items() for word in (f"--{key}", str(value))]
                command = [
                    sys.executable,
                    str(HERE / "explorer_before.py"),
                    *words,
                    "--part",
                    "this",
                    "--out",
                    str(found),
                ]
                subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(root)}, cwd=folder)
                results[name] = json.loads(found.read_text(encoding="utf-8"))
                print(name, ", ".join(f"{key}: {value['median']:.3f}" for key, value in results[name].items()))
        finally:
            subprocess.run(["git", "-C", str(HERE), "worktree", "remove", "--force", str(tree)], check=True)
    settings = dict(before=before, model=model, tokens=tokens, cells=cells, questions=questions, repeats=repeats)
    environment = measure.environment(measure.Clock("cpu"))
    return measure.write(f"explorer_before-{model}", environment, settings, results, out)


def _measure(model: str, tokens: int, cells: int, questions: int, repeats: int) -> dict[str, Any]:
    import kvsteer_lab as kv
    from kvsteer_lab.explorer.work import sweeping

    clock = measure.Clock("cpu")
    sweeping.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment, attr-defined]
    loaded, task = kv.load(model), kv.tasks.get("tiny-arithmetic")
    pairs = kv.ContrastiveSet.few_shot(task, loaded.tokenizer, style="stepwise", n=8, shots=1)
    vectors = kv.extract(loaded, pairs, progress=False)
    state = kv.explorer.ExplorerState(
        task=task.name,
        mix={"vectors": 1.0},
        arms=("baseline", "cache steering"),
        max_new_tokens=tokens,
        sweep="ck x cv",
        sweep_questions=questions,
        sweep_ck=(0.0,),
        sweep_cv=tuple(i / 4 for i in range(cells)),
    )
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        explorer = kv.explore(loaded, {"vectors": vectors}, task=task, state=state, folder=folder)
        try:
            explorer.wait()
            _release(explorer, clock, repeats, "slider to first steered token", found)
            if "n_controls" in state.__dataclass_fields__:
                explorer.set(arms=("baseline", "cache steering", "random control"))
                explorer.wait()
                _release(explorer, clock, repeats, "the same beside 5 random controls", found)
                explorer.set(arms=state.arms)
                explorer.wait()
            explorer.sweep()
            explorer.wait()
            found["sweep, a cell"] = [explorer.swept.seconds / len(explorer.swept.done)]  # type: ignore[union-attr]
            for _ in range(repeats):
                _cancel_sweep(explorer, clock, found)
            for _ in range(repeats):
                _cancel_beside(explorer, clock, tokens, found)
        finally:
            explorer.close()
    return {name: measure.spread(seconds) for name, seconds in found.items()}


def _release(explorer: Any, clock: measure.Clock, repeats: int, name: str, found: dict[str, list[float]]) -> None:
    """A slider's release; the first steered token is the first that the page is given."""
    slider = next(field.widget for field in explorer.page.controls.fields if field.name == "cv")
    side, shown = explorer.page.side, explorer.page.side.text
    at: list[float] = []

    def text(arm: Any, said: str) -> None:
        shown(arm, said)
        if arm == "cache steering":
            at.append(clock())

    side.text = text
    for _ in range(repeats):
        at.clear()
        released = clock()
        slider.value = 2.0 if slider.value == 1.5 else 1.5  # one that isn't moved says nothing
        explorer.wait()
        found.setdefault(name, []).append(at[0] - released)
    side.text = shown


def _cancel_sweep(explorer: Any, clock: measure.Clock, found: dict[str, list[float]]) -> None:
    """Cancel a sweep in the middle of its first decode."""
    before = explorer.swept
    explorer.sweep()
    while explorer.swept is before or explorer.swept.baseline is None:
        time.sleep(0.001)
    time.sleep(0.02)
    assert not explorer.swept.complete, "the sweep was over before it could be cancelled"
    pressed = clock()
    explorer.cancel()
    explorer.wait()
    found.setdefault("cancel of a sweep", []).append(clock() - pressed)


def _cancel_beside(explorer: Any, clock: measure.Clock, tokens: int, found: dict[str, list[float]]) -> None:
    """Cancel a comparison that waits for the model, while another thread decodes with it."""
    import kvsteer_lab as kv

    prompts = [explorer.comparison.asked.prompt] * 4
    settings = {"max_new_tokens": 2 * tokens, "min_new_tokens": 2 * tokens}
    other = threading.Thread(target=lambda: kv.generate(explorer.model, prompts, generation=settings, progress=False))
    other.start()
    begun = clock()
    while clock() - begun < 0.5:
        time.sleep(0.001)
    explorer.compare()
    time.sleep(0.05)
    pressed = clock()
    explorer.cancel()
    explorer.wait()
    found.setdefault("cancel while another thread decodes", []).append(clock() - pressed)
    other.join()


if __name__ == "__main__":
    tyro.cli(main)
