"""A grid of key and value coefficients: every pair of them is evaluated, all in one forked run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.doses import check_coefficients
from ...evaluation.grids import run_grid
from ...evaluation.measures import measure
from ...interventions.cache import CacheSteering, check_cache_steering
from ...models.model import Model
from ...tasks.base import Task


def coefficient_grid(
    model: Model,
    task: Task,
    steering: CacheSteering,
    cks: Sequence[float],
    cvs: Sequence[float],
    *,
    n: int | None = 24,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate every pair of a key and a value coefficient, all of them and the baseline in one forked run.

    Args:
        model, task, n, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`.
        steering: its vectors, layers, heads and slot are kept; its coefficients are replaced.
        cks, cvs: coefficients of keys and of values.
        split: never `"test"`.

    Returns:
        One row per cell, after one for the baseline: `task`; `cell`, `"baseline"` or `"cell"`; `ck`, `cv`; `dose_keys`,
        `dose_values`, the norm of what is
        added over the norm of the slot's own keys or values, averaged over the edited layers and the prompts; `n`;
        `accuracy` with its 95% Wilson interval `low`, `high`; `reasoned` and `adopted` (the vectors' own style) with
        theirs; `tokens`, `truncated`, `loops`, `repetition`. `attrs["questions"]` holds the ids.

    Raises:
        ValueError: the test split, no coefficients, one that is NaN or infinite, vectors that are zero, or what
            `kv.evaluate` refuses; before anything is computed.
        KeyboardInterrupt: the run was interrupted; with `out`, it goes on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.coefficient_grid(model, task, steering, cks=[0], cvs=[0, 6], **brief)
        >>> table[["cell", "ck", "cv", "n"]].values.tolist()
        [['baseline', 0.0, 0.0, 2], ['cell', 0.0, 0.0, 2], ['cell', 0.0, 6.0, 2]]
    """
    if split == "test":
        raise ValueError(
            "A grid is never run on test questions; choose a cell on split='dev' and evaluate that one cell on the"
            " test."
        )
    keys, values = (check_coefficients(name, given) for name, given in (("cks", cks), ("cvs", cvs)))
    check_cache_steering(steering)
    cells = {(ck, cv): replace(steering, ck=ck, cv=cv, name=f"ck={ck:g} cv={cv:g}") for ck in keys for cv in values}
    grid = run_grid(
        model,
        task,
        cells,
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    unit = steering.unit_doses(model, [task.chat(q) for q in task.questions(split, n, seed)])
    rows = [dict(cell="baseline", ck=0.0, cv=0.0) | measure(grid.baseline, steering.style)]
    rows += [dict(cell="cell", ck=ck, cv=cv) | measure(grid.of((ck, cv)), steering.style) for ck, cv in cells]
    table = pd.DataFrame(rows)
    table.insert(3, "dose_keys", table.ck.abs() * unit["keys"])
    table.insert(4, "dose_values", table.cv.abs() * unit["values"])
    table.insert(0, "task", task.name)
    table.attrs["questions"] = grid.questions
    return table
