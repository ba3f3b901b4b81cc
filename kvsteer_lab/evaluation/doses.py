"""Dose-response: what a vector does at each coefficient, beside random vectors of the same size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import pandas as pd

from ..interventions.activation import ActivationSteering, random_activation_controls
from ..interventions.cache import CacheSteering
from ..interventions.controls import random_controls
from ..models.model import Model
from ..models.prompts import Prompt
from ..tasks.base import Task
from .evaluate import evaluate

Steering = CacheSteering | ActivationSteering


def dose_response(
    model: Model,
    task: Task,
    steering: Steering,
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
        One row a coefficient and vector, with the columns `coefficient`, `dose` (see `unit_dose`), `vector`
        (`"steering"` or `"random 3"`), `accuracy`, `reasoned`, `tokens`, `n`. `attrs` holds the ids of the `questions`
        and their `split`.

    Raises:
        ValueError: no coefficients, one that is NaN or infinite, a steering that can't be scaled or adds nothing, or
            what `kv.evaluate` refuses; before anything is generated.
    """
    given = check_coefficients("coefficients", coefficients)
    check_adds(steering)
    steered = [scaled(steering, c, f"coefficient {c:g}") for c in given]
    drawn = [controls_of(s, controls, seed) for s in steered]
    unit = unit_dose(model, steering, [task.chat(q) for q in task.questions(split, n, seed)])
    if unit == 0:
        raise ValueError(
            f"What {steering.label!r} adds is zero at every coefficient, so there is no dose; check its vectors, layers"
            " and heads."
        )
    settings = {"max_new_tokens": max_new_tokens}
    results = evaluate(
        model,
        task,
        [*steered, *chain(*drawn)],
        n=n,
        split=split,
        seed=seed,
        generation=settings,
        batch_size=batch_size,
        progress=progress,
    )
    by_label = results.rows.groupby("intervention")
    measured = by_label.agg(
        accuracy=("correct", "mean"), reasoned=("reasoned", "mean"), tokens=("tokens", "mean"), n=("question", "size")
    )
    table = [
        dict(
            coefficient=coefficient_of(own), dose=abs(coefficient_of(own)) * unit, vector=vector, **measured.loc[label]
        )
        for own, others in zip(steered, drawn, strict=True)
        for vector, label in [("steering", own.label), *((f"random {seed + i}", c.label) for i, c in enumerate(others))]
    ]
    found = pd.DataFrame(table)
    found.attrs |= {"questions": results.of("baseline").question.tolist(), "split": split}
    return found


def unit_dose(model: Model, steering: Steering, prompts: Prompt | Sequence[Prompt]) -> float:
    """The dose at coefficient 1: the norm of what is added over the norm of what it is added to.

    For cache steering |S^V| / |V| at the steered slot, for activation steering |r| / |h| of the residual stream at that
    token; averaged over the layers that are edited and over the prompts.
    """
    if isinstance(steering, ActivationSteering):
        table = steering.vectors.relative_to(model, prompts).set_index("layer")["residuals"]
        return float(table.loc[list(steering.layers)].mean())
    return float(unit_doses(model, steering, prompts)["values"])


def unit_doses(model: Model, steering: CacheSteering, prompts: Prompt | Sequence[Prompt]) -> pd.Series:
    """The doses of keys and of values at coefficient 1, at the steering's slot, averaged over its layers and the
    prompts: `keys`, `values`.
    """
    table = steering.vectors.only(None, steering.heads).relative_to(model, prompts, slot=steering.slot)
    return table.set_index("layer").loc[list(steering.scope)].mean()


def check_coefficients(name: str, given: Sequence[float]) -> list[float]:
    """Distinct coefficients in their order.

    Raises:
        ValueError: none, or one that is NaN or infinite.
    """
    if len(given) == 0:
        raise ValueError(f"{name} is empty, so there are no coefficients to try; pass at least one.")
    if wrong := [c for c in given if not math.isfinite(c)]:
        raise ValueError(f"There is a coefficient {wrong[0]} in {name}; coefficients must be finite numbers.")
    return list(dict.fromkeys(float(c) for c in given))


def check_adds(steering: Steering) -> None:
    """Refuse what is no steering, or one that adds nothing at any coefficient.

    Raises:
        ValueError: another intervention, no layers or KV heads to edit, or vectors that are zero there.
    """
    if isinstance(steering, ActivationSteering):
        zero = not steering.vectors.residuals[list(steering.layers)].any()
    elif isinstance(steering, CacheSteering):
        if not steering.scope or steering.heads == ():
            missing = "KV heads" if steering.scope else "layers"
            raise ValueError(
                f"{steering.label!r} edits no {missing}, so no coefficient does anything; name at least one."
            )
        own = steering.vectors.only(steering.scope, steering.heads)
        zero = not (own.keys.any() or own.values.any())
    else:
        raise ValueError(
            f"A steering is asked for, a kv.CacheSteering or kv.ActivationSteering, not {type(steering).__name__}."
        )
    if zero:
        raise ValueError(
            f"The vectors of {steering.label!r} are zero in all of its layers and heads, so no coefficient does"
            " anything; extract them anew."
        )


def check_cache_steering(steering: CacheSteering) -> None:
    """`check_adds`, for what only cache steering has: keys and values, KV heads, a slot.

    Raises:
        ValueError: another intervention, or as `check_adds`.
    """
    if not isinstance(steering, CacheSteering):
        raise ValueError(f"Cache steering is asked for, a kv.CacheSteering, not {type(steering).__name__}.")
    check_adds(steering)


def scaled(steering: Steering, coefficient: float, name: str) -> Steering:
    """The same steering at another coefficient, under another name.

    Raises:
        ValueError: cache steering by keys alone: there is no ratio to keep.
    """
    if isinstance(steering, ActivationSteering):
        return replace(steering, coefficient=coefficient, name=name)
    if steering.cv == 0 and steering.ck != 0:
        raise ValueError(
            f"{steering.label!r} edits keys only (cv=0), so its dose can't be scaled by cv; give it a value"
            " coefficient."
        )
    return replace(
        steering, ck=steering.ck * coefficient / steering.cv if steering.ck else 0.0, cv=coefficient, name=name
    )


def coefficient_of(steering: Steering) -> float:
    """The coefficient that `scaled` sets: of cache steering, that of the values."""
    return steering.coefficient if isinstance(steering, ActivationSteering) else steering.cv


def controls_of(steering: Steering, n: int, seed: int) -> Sequence[Steering]:
    """`n` random controls of either kind of steering; 0: none."""
    if not n:
        return []
    return (
        random_activation_controls(steering, n, seed)
        if isinstance(steering, ActivationSteering)
        else random_controls(steering, n, seed)
    )
