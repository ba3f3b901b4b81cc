"""Dose-response: what a vector does at each coefficient, beside random vectors of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import pandas as pd

from .evaluation import evaluate
from .interventions.activation import ActivationSteering, random_activation_controls
from .interventions.base import Intervention
from .interventions.cache import CacheSteering
from .interventions.controls import random_controls
from .prompts import Prompt
from .tasks.base import Task

if TYPE_CHECKING:
    from .models import Model


def dose_response(
    model: Model,
    task: Task,
    steering: CacheSteering | ActivationSteering,
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
    """Evaluate `steering` at several coefficients, each with its own random controls, in one run.

    Args:
        model, task, n, split, seed, batch_size, progress: as in `kv.evaluate`.
        steering: what is scaled. Of cache steering, `cv` becomes the coefficient and `ck` keeps its ratio to it.
        coefficients: those to try.
        controls: random vectors a coefficient, the same directions at each.
        max_new_tokens: per reply.

    Returns:
        One row a coefficient and vector, with the columns `coefficient`, `dose` (see `unit_dose`), `vector` (`"steering"` or `"random 3"`), `accuracy`,
        `reasoned`, `tokens`, `n`. `attrs["questions"]` holds the questions' ids.

    Raises:
        ValueError: no coefficients, a steering that can't be scaled or adds nothing, or what `kv.evaluate` refuses; before anything is generated.
    """
    if len(coefficients) == 0:
        raise ValueError("There are no coefficients to try; pass at least one.")
    steered = [scaled(steering, float(c), f"coefficient {c:g}") for c in dict.fromkeys(coefficients)]
    drawn = [controls_of(s, controls, seed) for s in steered]
    unit = unit_dose(model, steering, [task.chat(q) for q in task.questions(split, n, seed)])
    if unit == 0:
        raise ValueError(f"What {steering.label!r} adds is zero at every coefficient, so there is no dose; check its vectors, layers and heads.")
    settings = {"max_new_tokens": max_new_tokens}
    results = evaluate(model, task, [*steered, *chain(*drawn)], n=n, split=split, seed=seed, generation=settings, batch_size=batch_size, progress=progress)
    by_label = results.rows.groupby("intervention")
    measured = by_label.agg(accuracy=("correct", "mean"), reasoned=("reasoned", "mean"), tokens=("tokens", "mean"), n=("question", "size"))
    table = [
        dict(coefficient=coefficient_of(own), dose=abs(coefficient_of(own)) * unit, vector=vector, **measured.loc[label])
        for own, others in zip(steered, drawn, strict=True)
        for vector, label in [("steering", own.label), *((f"random {seed + i}", c.label) for i, c in enumerate(others))]
    ]
    found = pd.DataFrame(table)
    found.attrs["questions"] = results.of("baseline").question.tolist()
    return found


def unit_dose(model: Model, steering: CacheSteering | ActivationSteering, prompts: Prompt | Sequence[Prompt]) -> float:
    """The dose at coefficient 1: the norm of what is added over the norm of what it is added to.

    For cache steering |S^V| / |V| at the steered slot, for activation steering |r| / |h| of the residual stream at that token; averaged over the layers
    that are edited and over the prompts.
    """
    if isinstance(steering, ActivationSteering):
        table = steering.vectors.relative_to(model, prompts).set_index("layer")["residuals"]
        return float(table.loc[list(steering.layers)].mean())
    table = steering.vectors.only(None, steering.heads).relative_to(model, prompts).set_index("layer")["values"]
    return float(table.loc[list(steering.scope)].mean())


def scaled(steering: CacheSteering | ActivationSteering, coefficient: float, name: str) -> CacheSteering | ActivationSteering:
    """The same steering at another coefficient, under another name.

    Raises:
        ValueError: cache steering by keys alone: there is no ratio to keep.
    """
    if isinstance(steering, ActivationSteering):
        return replace(steering, coefficient=coefficient, name=name)
    if steering.cv == 0 and steering.ck != 0:
        raise ValueError(f"{steering.label!r} edits keys only (cv=0), so its dose can't be scaled by cv; give it a value coefficient.")
    return replace(steering, ck=steering.ck * coefficient / steering.cv if steering.ck else 0.0, cv=coefficient, name=name)


def coefficient_of(steering: CacheSteering | ActivationSteering) -> float:
    """The coefficient that `scaled` sets: of cache steering, that of the values."""
    return steering.coefficient if isinstance(steering, ActivationSteering) else steering.cv


def controls_of(steering: CacheSteering | ActivationSteering, n: int, seed: int) -> Sequence[Intervention]:
    """`n` random controls of either kind of steering; 0: none."""
    if not n:
        return []
    return random_activation_controls(steering, n, seed) if isinstance(steering, ActivationSteering) else random_controls(steering, n, seed)
