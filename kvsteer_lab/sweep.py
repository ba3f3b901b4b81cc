"""Dose-response: what a vector does at each coefficient, beside random vectors of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import pandas as pd

from .evaluation import evaluate
from .interventions.cache import CacheSteering
from .interventions.controls import random_controls
from .tasks.base import Task

if TYPE_CHECKING:
    from .models import Model


def dose_response(
    model: Model,
    task: Task,
    steering: CacheSteering,
    coefficients: Sequence[float],
    *,
    controls: int = 40,
    n: int = 40,
    split: str = "dev",
    seed: int = 0,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate `steering` at several value coefficients, each with its own random controls, in one run.

    Args:
        model, task, n, split, seed, batch_size, progress: as in `kv.evaluate`.
        steering: vectors, key coefficient, layers, heads and slot; its `cv` is replaced.
        coefficients: the `cv` to try.
        controls: random vectors a coefficient, the same directions at each.
        max_new_tokens: per reply.

    Returns:
        One row a coefficient and vector, with the columns `cv`, `dose` (|cv S_V| over the norm of the slot's own values, averaged over the
        steered layers), `vector` (`"steering"` or `"random 3"`), `accuracy`, `reasoned`, `tokens`, `n`.

    Raises:
        ValueError: no coefficients, or what `kv.evaluate` refuses.
    """
    if not coefficients:
        raise ValueError("There are no coefficients to try; pass at least one.")
    steered = [replace(steering, cv=float(cv), name=f"cv={cv:g}") for cv in dict.fromkeys(coefficients)]
    drawn = [random_controls(s, controls, seed) if controls else [] for s in steered]
    settings = {"max_new_tokens": max_new_tokens}
    results = evaluate(model, task, [*steered, *chain(*drawn)], n=n, split=split, seed=seed, generation=settings, batch_size=batch_size, progress=progress)
    prompts = [task.chat(q) for q in task.questions(split, n, seed)]
    ratio = steering.vectors.relative_to(model, prompts).set_index("layer")["values"][list(steering.scope)].mean()
    by_label = results.rows.groupby("intervention")
    measured = by_label.agg(accuracy=("correct", "mean"), reasoned=("reasoned", "mean"), tokens=("tokens", "mean"), n=("question", "size"))
    table = [
        dict(cv=own.cv, dose=abs(own.cv) * ratio, vector=vector, **measured.loc[label])
        for own, others in zip(steered, drawn, strict=True)
        for vector, label in [("steering", own.label), *((f"random {seed + i}", c.label) for i, c in enumerate(others))]
    ]
    return pd.DataFrame(table)
