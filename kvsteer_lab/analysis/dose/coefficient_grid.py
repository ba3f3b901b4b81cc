"""Coefficients of keys and of values, crossed: every cell in one forked run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.doses import check_cache_steering, check_coefficients, unit_doses
from ...evaluation.evaluate import evaluate
from ...evaluation.measures import measure, style_of
from ...interventions.cache import CacheSteering
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
        One row a cell behind one of the baseline: `task`; `cell`, `"baseline"` or `"cell"`; `ck`, `cv`; `dose_keys`,
        `dose_values`, the norm of what is
        added over the norm of the slot's own keys or values, averaged over the edited layers and the prompts; `n`;
        `accuracy` with its 95% Wilson interval `low`, `high`; `reasoned` and `adopted` (the vectors' own style) with
        theirs; `tokens`, `truncated`, `loops`, `repetition`. `attrs["questions"]` holds the ids.

    Raises:
        ValueError: the test split, no coefficients, one that is NaN or infinite, vectors that are zero, or what
            `kv.evaluate` refuses; before anything is computed.
    """
    if split == "test":
        raise ValueError(
            "A grid is never run on test questions; choose a cell on split='dev' and evaluate that one cell on the"
            " test."
        )
    keys, values = (check_coefficients(name, given) for name, given in (("cks", cks), ("cvs", cvs)))
    check_cache_steering(steering)
    cells = {(ck, cv): replace(steering, ck=ck, cv=cv, name=f"ck={ck:g} cv={cv:g}") for ck in keys for cv in values}
    settings = dict(
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    results = evaluate(model, task, list(cells.values()), **settings)  # type: ignore[arg-type]
    if not results.complete:
        raise KeyboardInterrupt("the grid was interrupted")
    unit = unit_doses(model, steering, [task.chat(q) for q in task.questions(split, n, seed)])
    replies = {str(label): part for label, part in results.rows.groupby("intervention", sort=False)}
    rows = [dict(cell="baseline", ck=0.0, cv=0.0, **measure(replies["baseline"], style_of(steering)))]
    rows += [
        dict(cell="cell", ck=ck, cv=cv, **measure(replies[own.label], style_of(steering)))
        for (ck, cv), own in cells.items()
    ]
    table = pd.DataFrame(rows)
    table.insert(3, "dose_keys", table.ck.abs() * unit["keys"])
    table.insert(4, "dose_values", table.cv.abs() * unit["values"])
    table.insert(0, "task", task.name)
    table.attrs["questions"] = replies["baseline"].question.tolist()
    return table
