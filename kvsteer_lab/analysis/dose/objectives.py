"""The outcomes that robustness is computed from: every question at a tuned coefficient and at others around it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ...evaluation.doses import check_unit
from ...evaluation.grids import run_grid
from ...evaluation.tuning.tuning import check_disjoint
from ...interventions.checks import check_adds
from ...interventions.steering import Steering
from ...models.model import Model
from ...tasks.base import Task

Objective = Literal["correct", "reasoned"]


def best_coefficient(table: pd.DataFrame, objective: Objective = "correct") -> float:
    """The coefficient with the largest objective in a table of `kv.dose_response`; among equals the smallest relative
    strength, as `kv.tune` has it.

    Raises:
        ValueError: an unknown objective, no steered rows, or a table of test questions.

    Example:
        >>> import pandas as pd
        >>> import kvsteer_lab as kv
        >>> table = pd.DataFrame({"vector": "steering", "coefficient": [1.0, 3.0, 9.0], "dose": [0.5, 1.5, 4.5]})
        >>> kv.analysis.best_coefficient(table.assign(accuracy=[0.4, 0.8, 0.8]))
        3.0
    """
    column = {"correct": "accuracy", "reasoned": "reasoned"}[check_objective(objective)]
    if not {"vector", "coefficient", "dose", column} <= set(table.columns):
        raise ValueError(
            "The table has no coefficients and doses of a steering; pass the one that kv.dose_response returned."
        )
    if table.attrs.get("split") == "test":
        raise ValueError("A coefficient is never chosen on test questions; run kv.dose_response on split='dev'.")
    own = table[table.vector == "steering"]
    if own.empty:
        raise ValueError("The table has no rows of the steering itself; pass the one that kv.dose_response returned.")
    return float(own.sort_values([column, "dose"], ascending=[False, True], kind="stable").coefficient.iloc[0])


def robustness_outcomes(
    model: Model,
    task: Task,
    steering: Steering,
    tuned_on: Sequence[str],
    *,
    points: int = 9,
    span: float = 4.0,
    controls: int = 40,
    n: int | None = 40,
    split: str = "test",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Ask the questions at coefficients c* / span to c* x span, log-even, random vectors of the same size at each; all
    in one run.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`.
        steering: at its tuned coefficient c*. Of cache steering, c* is `cv`, and `ck` keeps its ratio to it.
        tuned_on: ids of the questions that c* was chosen on: `Tuning.questions`, or `attrs["questions"]` of
            `kv.dose_response`; empty if it was not chosen on any.
        points: on the grid, an odd number, so that c* is one of them.
        span: how far the grid goes, as a factor.
        controls: random vectors, the same directions at each coefficient; 0: none.

    Returns:
        One row per question, coefficient and vector: `method` (the steering's label), `ratio` (c / c*), `coefficient`,
        `dose` (see `kv.unit_dose`), `vector`
        (`"steering"`, `"random 3"`, or `"baseline"`, with NaN for the three before), `question`, `correct`, `reasoned`,
        `adopted`.

    Raises:
        ValueError: questions that c* was chosen on, an even number of points or fewer than three, a span that is not
            above 1, a c* of 0, vectors that are zero, or what `kv.evaluate` refuses; before anything is computed.
        KeyboardInterrupt: the run was interrupted; with `out`, it goes on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.robustness_outcomes(model, task, steering, [], points=3, controls=0, **brief)
        >>> table[table.vector == "steering"].ratio.unique().tolist()
        [0.25, 1.0, 4.0]
    """
    if points < 3 or points % 2 != 1:
        raise ValueError(f"points={points} leaves c* off the grid or alone on it; choose an odd number of at least 3.")
    if not 1 < span < math.inf:
        raise ValueError(f"The span must be a number above 1, not {span}.")
    check_adds(steering)
    star = steering.coefficient
    if star == 0:
        raise ValueError(
            f"The coefficient of {steering.label!r} is 0, so there is nothing to scale; choose one with kv.tune or"
            " best_coefficient first."
        )
    asked = task.questions(split, n, seed)
    check_disjoint(tuned_on, [q.id for q in asked])
    unit = steering.unit_dose(model, [task.chat(q) for q in asked])
    check_unit(steering, unit)
    ratios = np.geomspace(1 / span, span, points)
    ratios[points // 2] = 1.0
    steered = {float(r): steering.at(star * float(r), f"{r:.4g} c*") for r in ratios}
    grid = run_grid(
        model,
        task,
        steered,
        controls=controls,
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    cells = {"baseline": (math.nan, math.nan, "baseline")}
    for ratio, own in steered.items():
        cells[own.label] = (ratio, own.coefficient, "steering")
        cells |= {
            c.label: (ratio, own.coefficient, f"random {seed + i}") for i, c in enumerate(grid.controls.get(ratio, ()))
        }
    rows = grid.results.rows[grid.results.rows.intervention.isin(cells.keys())]
    place = pd.DataFrame(
        [cells[label] for label in rows.intervention], columns=["ratio", "coefficient", "vector"], index=rows.index
    )
    adopted = (rows["style"] == steering.style) if steering.style is not None else math.nan
    found = pd.concat([place, rows[["question", "correct", "reasoned"]]], axis=1).assign(adopted=adopted)
    found.insert(0, "method", steering.label)
    found.insert(3, "dose", found.coefficient.abs() * unit)
    return found.reset_index(drop=True)


def check_objective(objective: Objective) -> Objective:
    """Raise a `ValueError` unless the objective is known."""
    if objective not in ("correct", "reasoned"):
        raise ValueError(f"objective={objective!r} is unknown; choose 'correct' or 'reasoned'.")
    return objective
