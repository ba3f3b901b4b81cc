"""Relative strength and response: what a steering does at each coefficient, beside random vectors of the same size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..interventions.checks import check_adds
from ..interventions.scaled import Scaled
from ..models.model import Model
from ..models.prompts import Prompt
from ..tasks.base import Task
from .grids import run_grid


def dose_response(
    model: Model,
    task: Task,
    steering: Scaled,
    coefficients: Sequence[float],
    *,
    controls: int = 40,
    n: int = 40,
    split: str = "dev",
    seed: int = 0,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate `steering` at several coefficients, each with its own random controls, in one run.

    Args:
        model, task, n, split, seed, batch_size, out, progress: as in `kv.evaluate`.
        steering: what is scaled. Of cache steering, `cv` becomes the coefficient and `ck` keeps its ratio to it.
        coefficients: those to try.
        controls: random vectors a coefficient, the same directions at each.
        max_new_tokens: per reply; `None`: the task's own limit.

    Returns:
        One row a coefficient and vector, with the columns `coefficient`, `dose` (see `unit_dose`), `vector`
        (`"steering"` or `"random 3"`), `accuracy`, `reasoned`, `tokens`, `n`. `attrs` holds the ids of the `questions`
        and their `split`.

    Raises:
        ValueError: no coefficients, one that is NaN or infinite, a steering that can't be scaled or adds nothing, or
            what `kv.evaluate` refuses; before anything is generated.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=8, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=1)
        >>> table = kv.dose_response(model, task, steering, [0, 2], controls=1, n=2, max_new_tokens=4, progress=False)
        >>> table[["coefficient", "vector", "n"]].values.tolist()
        [[0.0, 'steering', 2], [0.0, 'random 0', 2], [2.0, 'steering', 2], [2.0, 'random 0', 2]]
    """
    given = check_coefficients("coefficients", coefficients)
    check_adds(steering)
    steered = {c: steering.at(c, f"coefficient {c:g}") for c in given}
    unit = unit_dose(model, steering, [task.chat(q) for q in task.questions(split, n, seed)])
    check_unit(steering, unit)
    generation = {"max_new_tokens": max_new_tokens}
    grid = run_grid(
        model,
        task,
        steered,
        controls=controls,
        n=n,
        split=split,
        seed=seed,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    rows = []
    for coefficient, own in steered.items():
        parts = {"steering": grid.of(coefficient)} | {
            f"random {seed + i}": part for i, part in enumerate(grid.drawn(coefficient))
        }
        for vector, part in parts.items():
            means = dict(
                accuracy=part.correct.mean(), reasoned=part.reasoned.mean(), tokens=part.tokens.mean(), n=len(part)
            )
            rows.append(dict(coefficient=own.coefficient, dose=abs(own.coefficient) * unit, vector=vector) | means)
    table = pd.DataFrame(rows)
    table.attrs |= {"questions": grid.questions, "split": split}
    return table


def unit_dose(model: Model, steering: Scaled, prompts: Prompt | Sequence[Prompt]) -> float:
    """The relative strength at coefficient 1: the norm of what is added over the norm of what it is added to.

    For cache steering |S^V| / |V| at the steered slot, for activation steering |r| / |h| of the residual stream at that
    token; averaged over the layers that are edited and over the prompts.

    Args:
        model: the model to be steered.
        steering: what is added; its coefficients count for nothing.
        prompts: prompts whose steered slot is measured.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> unit_dose(model, steering, "What is 2 + 3?") == steering.unit_dose(model, "What is 2 + 3?")
        True
    """
    return steering.unit_dose(model, prompts)


def check_unit(steering: Scaled, unit: float) -> None:
    """Refuse a steering that has no relative strength.

    Args:
        steering: what is added.
        unit: its relative strength at coefficient 1.

    Raises:
        ValueError: the relative strength is 0.

    Example:
        >>> import kvsteer_lab as kv
        >>> check_unit(kv.CacheEdits(kv.edits.Map(0.5), name="half"), 0.0)
        Traceback (most recent call last):
        ValueError: What 'half' adds is zero at every coefficient; check its ...
    """
    if unit == 0:
        raise ValueError(
            f"What {steering.label!r} adds is zero at every coefficient; check its vectors, layers and heads."
        )


def check_coefficients(name: str, given: Sequence[float]) -> list[float]:
    """Distinct coefficients in their order.

    Raises:
        ValueError: none, or one that is NaN or infinite.

    Example:
        >>> check_coefficients("coefficients", [0, 2, 2.0])
        [0.0, 2.0]
    """
    if len(given) == 0:
        raise ValueError(f"{name} is empty, so there are no coefficients to try; pass at least one.")
    if wrong := [c for c in given if not math.isfinite(c)]:
        raise ValueError(f"There is a coefficient {wrong[0]} in {name}; coefficients must be finite numbers.")
    return list(dict.fromkeys(float(c) for c in given))
