"""The best row of an ablation, run once on questions that the ablation never saw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ...evaluation.grids import run_grid
from ...evaluation.identity import describe, hash_of
from ...evaluation.results import Results
from ...evaluation.tuning.tuning import check_disjoint
from ...interventions.cache import CacheSteering
from ...models.model import Model
from ...tasks.base import Task
from .masks import KeptHeads


def confirm_best(
    model: Model,
    task: Task,
    steering: CacheSteering,
    table: pd.DataFrame,
    *,
    objective: Literal["correct", "reasoned"] = "correct",
    n: int | None = 200,
    split: str = "test",
    seed: int = 0,
    controls: int = 40,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> Results:
    """Run the best row of an ablation on questions that it never saw, beside the whole steering. Do it once.

    The best has the largest objective; among equals the one that keeps least (layers times heads, keys and values
    counted apart) wins, then the first.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`.
        steering: the one that was ablated.
        table: from `ablate_layers` or `ablate_heads`, or some of its rows, `table[table.way == "single"]` say.
        objective: accuracy (`"correct"`), or the share of replies that reason.
        controls: random controls of the best row; 0: none.

    Raises:
        ValueError: questions that the table was made from, a table that doesn't name them, is of another steering or
            has no masks, an unknown objective.
        KeyboardInterrupt: the run was interrupted; with `out`, it goes on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.ablate_layers(model, task, steering, "single", controls=0, **brief)
        >>> results = kv.analysis.confirm_best(model, task, steering, table, controls=0, **brief)
        >>> len(results.interventions)  # both baselines, the whole steering, its best layer
        4
    """
    if objective not in ("correct", "reasoned"):
        raise ValueError(f"objective={objective!r} is unknown; choose 'correct' or 'reasoned'.")
    if "questions" not in table.attrs:
        raise ValueError(
            "The table doesn't say which questions it was made from; pass the one that ablate_layers or ablate_heads"
            " returned."
        )
    if table.attrs["steering"] != hash_of(describe(steering)):
        raise ValueError(
            f"The table is of another steering than {steering.label!r}, in vectors, coefficients, layers, heads or"
            " slot; pass the ablated one."
        )
    masks = table[~table.way.isin(("none", "all"))]
    if masks.empty:
        raise ValueError(
            "The table holds no mask to choose, only the baseline or the whole; pass rows of 'single' or another way."
        )
    check_disjoint(table.attrs["questions"], [q.id for q in task.questions(split, n, seed)])
    kept = [KeptHeads(row.part, tuple(row.layers), tuple(row.heads)) for row in masks.itertuples()]
    reached = masks["accuracy" if objective == "correct" else "reasoned"].tolist()
    size = [len(k.layers) * len(k.heads) * len(k.part.split(" and ")) for k in kept]
    best = kept[min(range(len(kept)), key=lambda i: (-reached[i], size[i]))].restrict(steering)
    grid = run_grid(
        model,
        task,
        {"best": best},
        controls=controls,
        beside=[steering],
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    return grid.results
