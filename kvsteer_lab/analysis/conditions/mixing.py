"""Style arithmetic: the styles of replies when two styles' vectors are interpolated, added or subtracted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.grids import run_grid
from ...evaluation.measures import share
from ...interventions.base import Nothing
from ...interventions.cache import CacheSteering
from ...models.model import Model
from ...stats.significance import control_p
from ...tasks.base import Task
from ...tasks.styles import STYLES
from ...vectors.kv import KVVectors

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def style_mixing(
    model: Model,
    task: Task,
    first: CacheSteering,
    second: CacheSteering,
    weights: Sequence[float] = WEIGHTS,
    *,
    controls: int = 0,
    n: int = 40,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Which style the replies have when two styles' vectors are mixed, all mixes in one run.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`.
        first, second, weights: as in `style_mixes`.
        controls: random vectors of the same norms, for each mix its own.

    Returns:
        One row per mix and detected style, the baseline first: `mix`; `kind`, `"baseline"`, `"interpolation"`, `"sum"`
        or `"difference"`; `weight` of the second, for interpolations; `size`, the norm of what is added over the mean
        of the two styles' own; `style`; `share` of the replies that have it, with its 95% Wilson interval `low`,
        `high`; `n`. With controls also `random`, their mean share, `random_low`, `random_high`, the middle 95% of them,
        and `p`, the share of controls (plus one) that have the style at least as often.

    Raises:
        ValueError: what `style_mixes` or `kv.evaluate` refuses; before anything is computed.
        KeyboardInterrupt: the run was interrupted; with `out`, the replies go on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="analogical", n=4, shots=1)
        >>> other = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.style_mixing(model, task, steering, other, [0.5], **brief)
        >>> table.mix.unique().tolist()
        ['baseline', '0.5 stepwise + 0.5 analogical', 'stepwise + analogical', 'stepwise - analogical',
         'analogical - stepwise']
    """
    mixes = style_mixes(first, second, weights)
    grid = run_grid(
        model,
        task,
        {mix.label: mix for mix in mixes},
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
    between: list[tuple[str, float]] = [("interpolation", w) for w in dict.fromkeys(float(w) for w in weights)]
    kinds = [*between, ("sum", math.nan), *[("difference", math.nan)] * 2]
    unit = (_norm(first) + _norm(second)) / 2
    rows = _rows(dict(mix=Nothing().label, kind="baseline", weight=math.nan, size=0.0), grid.baseline, [])
    for mix, (kind, weight) in zip(mixes, kinds, strict=True):
        place = dict(mix=mix.label, kind=kind, weight=weight, size=_norm(mix) / unit)
        rows += _rows(place, grid.of(mix.label), grid.drawn(mix.label))
    return pd.DataFrame(rows)


def style_mixes(first: CacheSteering, second: CacheSteering, weights: Sequence[float] = WEIGHTS) -> list[CacheSteering]:
    """Interpolations (1 - w) A + w B of two styles' vectors A and B, their sum, and both differences, as cache
    steerings.

    Vectors of two styles share what makes any reasoning; a difference takes that out, a sum doubles it.

    Args:
        first, second: the two styles, with the same coefficients, layers, heads and slot.
        weights: of the second; 0 and 1 give the styles themselves.

    Raises:
        ValueError: no or infinite weights, steerings that differ in more than their vectors, vectors of different
            models, of one and the same style, or zero where they steer.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="analogical", n=4, shots=1)
        >>> other = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> [mix.label for mix in kv.analysis.style_mixes(steering, other, [0, 1])][:3]
        ['stepwise', 'analogical', 'stepwise + analogical']
    """
    if not weights or not all(math.isfinite(w) for w in weights):
        raise ValueError(
            "Weights must be one or more finite numbers, from 0 (the first style) to 1 (the second), not"
            f" {tuple(weights)}."
        )
    _check(first, second)
    (one, a), (other, b) = ((_name(s), s.vectors) for s in (first, second))

    def steer(vectors: KVVectors, name: str) -> CacheSteering:
        return replace(first, vectors=vectors, name=name)

    between = [
        steer(_interpolated(a, b, w), {0.0: one, 1.0: other}.get(w, f"{1 - w:g} {one} + {w:g} {other}"))
        for w in dict.fromkeys(map(float, weights))
    ]
    return [
        *between,
        steer(a + b, f"{one} + {other}"),
        steer(a - b, f"{one} - {other}"),
        steer(b - a, f"{other} - {one}"),
    ]


def _interpolated(a: KVVectors, b: KVVectors, weight: float) -> KVVectors:
    return a if weight == 0 else b if weight == 1 else (1 - weight) * a + weight * b


def _check(first: CacheSteering, second: CacheSteering) -> None:
    for steering in (first, second):
        if not isinstance(steering, CacheSteering):
            raise ValueError(f"Vectors of cache steering are mixed, kv.CacheSteering, not {type(steering).__name__}.")
    for setting, attribute in dict(ck="ck", cv="cv", layers="edited_layers", heads="heads", slot="slot").items():
        ours, theirs = getattr(first, attribute), getattr(second, attribute)
        if ours != theirs:
            raise ValueError(
                f"The two steerings differ in {setting}, {ours} and {theirs}; mix styles that differ in their vectors"
                " only."
            )
    a, b = first.vectors, second.vectors
    shapes = "" if a.keys.shape == b.keys.shape else f"are of different models, {a.card.model} and {b.card.model}"
    if differ := a.card.tell_of_other_model(b.card) or shapes:
        raise ValueError(
            f"The vectors of {_name(first)!r} and {_name(second)!r} {differ}; extract both from one model."
        )
    for steering in (first, second):
        if _norm(steering) == 0:
            raise ValueError(
                f"What {_name(steering)!r} adds is zero in the steered layers; check its vectors, coefficients and"
                " layers."
            )
    if _norm(replace(first, vectors=a - b)) == 0:
        raise ValueError("The two steerings add the same, so there is nothing between them; pass two styles.")
    if _name(first) == _name(second):
        raise ValueError(
            f"Both vectors are of style {_name(first)!r}; give the steerings names of their own: kv.CacheSteering(...,"
            " name=...)."
        )


def _name(steering: CacheSteering) -> str:
    return steering.name or str(steering.style or steering.label)


def _norm(steering: CacheSteering) -> float:
    """Of all that is added, over the steered layers and heads."""
    own = steering.added
    return math.hypot(steering.ck * float(own.keys.double().norm()), steering.cv * float(own.values.double().norm()))


def _rows(place: dict[str, Any], replies: pd.DataFrame, controls: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    rows = []
    for style in (*STYLES, "other"):
        row = place | dict(style=style) | share(replies["style"] == style, "share") | dict(n=len(replies))
        if controls:
            each = pd.Series([(part["style"] == style).mean() for part in controls])
            row |= dict(random=each.mean(), random_low=each.quantile(0.025), random_high=each.quantile(0.975))
            row["p"] = control_p(row["share"], each.tolist())
        rows.append(row)
    return rows
