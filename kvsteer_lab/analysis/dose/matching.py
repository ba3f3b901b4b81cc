"""Comparison at equal divergence: each steering, and each random vector, is evaluated at the coefficient at which it
moves the model by the same number of nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..._util.progress import bar
from ...evaluation.bands import band
from ...evaluation.grids import Grid, run_grid
from ...evaluation.measures import measure
from ...generation.divergence import divergences
from ...generation.generate import generate_all
from ...interventions.checks import check_adds
from ...interventions.edits import CacheEdits
from ...interventions.scaled import Scaled
from ...models.model import Model
from ...tasks.base import Task

_LEAST = 1e-12  # nats; less is rounding
_BANDS = ("random_low", "random_high", "p_random", "random_adopted_low", "random_adopted_high", "p_random_adopted")


def match_divergence(
    model: Model,
    task: Task,
    steerings: Mapping[str, Scaled],
    nats: Sequence[float],
    *,
    span: float = 16.0,
    tolerance: float = 0.01,
    controls: int = 40,
    n: int = 16,
    split: str = "dev",
    seed: int = 0,
    max_new_tokens: int = 128,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate steerings, and random vectors, each scaled until KL(steered || plain) is what is asked for; all of them
    in one run.

    The KL is summed over the baseline's own replies, which are the same for all, and averaged over questions. Vectors
    of equal norm may move the model very differently; here a random vector is made as large as it takes. One that
    doesn't get there within the span is left out and counted. Where a gate is closed on a question, its KL is 0 and
    counts in the mean.

    Args:
        model, task, n, split, seed, batch_size, out, progress: as in `kv.evaluate`.
        steerings: by name; of each, a coefficient near which to look.
        nats: the divergences to compare at.
        span: how far from a steering's own coefficient to look, as a factor, upwards and downwards.
        tolerance: how near to look, in the logarithm of the coefficient; where KL goes with the coefficient's square,
            0.01 is within 1% of the nats asked for.
        controls: random vectors a steering; 0: none.
        max_new_tokens: of the replies.

    Returns:
        One row per steering and divergence: `method` (the name), `nats`; `coefficient`, `dose` (see `kv.unit_dose`) and
        `kl`, what was reached; `n`, `accuracy`
        and the other measures of `coefficient_grid`; `p_first`, the exact McNemar test against the first steering at
        the same divergence; with controls `matched`, how many random vectors get there, `random_low`, `random_high`,
        the middle 95% of their accuracies, `p_random`, the share of them (plus one) that are as accurate, and the same
        of `adopted`. A steering that doesn't get there has no numbers.

    Raises:
        ValueError: no steerings or nats, nats that aren't positive, a span that isn't above 1, a tolerance that
            isn't positive, a steering that adds nothing, has a coefficient of 0 or a gate that no question opens, or
            what `kv.evaluate` refuses; before anything is generated.
        KeyboardInterrupt: the search or the run was interrupted; with `out`, the replies go on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(controls=0, n=2, max_new_tokens=4, progress=False)
        >>> table = kv.analysis.match_divergence(model, task, {"cache": steering}, [0.1], span=16, **brief)
        >>> table[["method", "nats"]].values.tolist(), round(float(table.kl[0]), 1)
        ([['cache', 0.1]], 0.1)
    """
    if not steerings:
        raise ValueError("There are no steerings to compare; pass {name: steering}.")
    if len(nats) == 0 or not all(0 < x < math.inf for x in nats):
        raise ValueError(f"Divergences are one or more positive numbers of nats, not {list(nats)}.")
    if not 1 < span < math.inf:
        raise ValueError(f"The span must be a number above 1, not {span}.")
    if not 0 < tolerance < math.inf:
        raise ValueError(f"The tolerance must be a positive number, not {tolerance}.")
    for name, steering in steerings.items():
        check_adds(steering)
        if steering.coefficient == 0:
            raise ValueError(
                f"The coefficient of {name!r} is 0, so there is nothing to scale; give it one near which to look."
            )
    targets = list(dict.fromkeys(map(float, nats)))
    chats = [task.chat(q) for q in task.questions(split, n, seed)]
    for steering in steerings.values():
        if isinstance(steering, CacheEdits):
            steering.check_opens(model, chats)
    texts = generate_all(
        model, chats, generation=dict(max_new_tokens=max_new_tokens), seed=seed, batch_size=batch_size, progress=False
    ).token_ids

    def move(given: Sequence[Scaled]) -> list[float]:
        return [float(np.mean(each.totals)) for each in divergences(model, chats, texts, given, batch_size=batch_size)]

    cells: dict[_Cell, Scaled] = {}
    with bar(len(steerings), "match", "steering", progress) as shown:
        for name, steering in steerings.items():
            vectors: dict[str, Scaled] = {"steering": steering}
            vectors |= {f"random {seed + i}": c for i, c in enumerate(steering.controls(controls, seed))}
            for (vector, x), factor in _factors(vectors, targets, span, tolerance, move).items():
                own = vectors[vector]
                cells[name, x, vector] = own.at(factor * own.coefficient, f"{name}, {vector}, {x:g} nats")
            shown.update(1)
    grid: Grid[_Cell] | None = None
    if cells:
        grid = run_grid(
            model,
            task,
            cells,
            n=n,
            split=split,
            seed=seed,
            generation=dict(max_new_tokens=max_new_tokens),
            batch_size=batch_size,
            out=out,
            progress=progress,
        )
    units = {name: steering.unit_dose(model, chats) for name, steering in steerings.items()}
    rows, (first, *_) = [], steerings
    for x in targets:
        for name, steering in steerings.items():
            drawn = [cell for cell in cells if cell[:2] == (name, x) and cell[2] != "steering"]
            row: dict[str, Any] = dict(method=name, nats=x) | (dict(matched=len(drawn)) if controls else {})
            if grid is not None and (cell := (name, x, "steering")) in cells:
                reached = cells[cell]
                dose = abs(reached.coefficient) * units[name]
                row |= dict(coefficient=reached.coefficient, dose=dose, kl=move([reached])[0])
                row |= _measure(grid.of(cell), [grid.of(each) for each in drawn], steering.style)
                if name != first and (other := (first, x, "steering")) in cells:
                    row["p_first"] = grid.p_against(cell, cells[other].label)
            rows.append(row)
    table = pd.DataFrame(rows)
    named = ["method", "nats", "coefficient", "dose", "kl"]
    last = ["p_first", *(["matched", *_BANDS] if controls else [])]
    middle = [column for column in table.columns if column not in (*named, *last)]
    return table.reindex(columns=[*named, *middle, *last])


_Cell = tuple[str, float, str]  # the steering's name, the nats, the vector


def _measure(own: pd.DataFrame, drawn: Sequence[pd.DataFrame], style: str | None) -> dict[str, Any]:
    """Of the steering's replies, beside those of the random vectors that move the model as far."""
    row = measure(own, style)
    row |= band(row["accuracy"], [float(part.correct.mean()) for part in drawn])
    adopted = [float((part["style"] == style).mean()) for part in drawn] if style else []
    return row | band(row["adopted"], adopted, "adopted")


def _factors(
    vectors: Mapping[str, Scaled],
    nats: Sequence[float],
    span: float,
    tolerance: float,
    move: Callable[[Sequence[Scaled]], list[float]],
) -> dict[tuple[str, float], float]:
    """The smallest factor at which each vector moves the model each of `nats`; those that it doesn't reach are left
    out. All vectors take each step together.

    The divergence is taken at factors two apart first: it needn't grow all the way, for very large vectors can end up
    saying one thing only.
    """

    def log_moves(at: Sequence[tuple[str, float]]) -> list[float]:
        moved = move([vectors[name].at(math.exp(x) * vectors[name].coefficient, "scaled") for name, x in at])
        return [math.log(max(kl, _LEAST)) for kl in moved]

    grid = np.linspace(-math.log(span), math.log(span), 1 + math.ceil(2 * math.log2(span))).tolist()
    known: dict[str, list[float]] = {name: [] for name in vectors}
    for x in grid:
        going = [name for name, seen in known.items() if not seen or max(seen) < math.log(max(nats))]
        for name, moved in zip(going, log_moves([(name, x) for name in going]) if going else [], strict=True):
            known[name].append(moved)
    between: dict[tuple[str, float], tuple[float, float]] = {}
    for name, seen in known.items():
        for wanted in nats:
            start = next((i for i in range(len(seen) - 1) if seen[i] < math.log(wanted) <= seen[i + 1]), None)
            if start is not None:
                between[name, wanted] = (grid[start], grid[start + 1])
    halvings = max(0, math.ceil(math.log2((grid[1] - grid[0]) / tolerance)))
    for _ in range(halvings if between else 0):
        middles = {key: (low + high) / 2 for key, (low, high) in between.items()}
        for (key, middle), moved in zip(
            middles.items(), log_moves([(name, x) for (name, _), x in middles.items()]), strict=True
        ):
            low, high = between[key]
            between[key] = (middle, high) if moved < math.log(key[1]) else (low, middle)
    return {key: math.exp((low + high) / 2) for key, (low, high) in between.items()}
