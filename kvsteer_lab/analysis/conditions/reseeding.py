"""The dependence of an effect on the extraction: vectors from other seeds, fewer pairs, and other numbers of shots, all
at equal relative strength.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from ...evaluation.bands import band
from ...evaluation.grids import Grid, run_grid
from ...interventions.base import Intervention
from ...interventions.cache import CacheSteering, check_cache_steering
from ...interventions.checks import check_adds
from ...models.model import Model
from ...stats.shares import vector_difference, vector_share
from ...tasks.base import Task
from ...vectors.extraction import extract_pairs
from ...vectors.kv import KVVectors
from ...vectors.norms import slot_norms
from ...vectors.pairs import ContrastiveSet


def vary_extraction(
    model: Model,
    task: Task,
    steering: CacheSteering,
    doses: Sequence[float],
    *,
    pairs: Sequence[int] = (100,),
    shots: Sequence[int] = (3,),
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    controls: int = 0,
    n: int | None = 24,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Extract the same style again from other pairs, and steer with each of the vectors at the same relative strength;
    all of them in one run.

    Every number of pairs is crossed with every number of shots, every seed and every relative strength. Of one seed and
    number of shots, fewer pairs are the first ones of more.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`. Pairs come
            from the task's extraction split.
        steering: gives the styles, layers, heads, slot, and the ratio of `ck` to `cv`; its vectors are not used.
        doses: |c_v S^V| / |V| at the steered slot, averaged over the layers; each vector gets the coefficient that
            makes it so.
        pairs, shots: numbers to extract with.
        seeds: of the pairs, two or more.
        controls: random vectors at each relative strength, of the norms that the first seed's vectors from most pairs
        have there.

    Returns:
        One row per relative strength, number of shots and number of pairs: `dose`, `shots`, `pairs`, `vectors` (how
        many seeds), `cv` (their mean coefficient), `n`; `accuracy` and `adopted` (the style asked for), means over the
        vectors, with `accuracy_min`, `accuracy_max`, `adopted_min`, `adopted_max`; `gain` over the baseline and
        `adopted` with 95% intervals `low`, `high` and `adopted_low`, `adopted_high` over both vectors and questions:
        they are for one more vector extracted like these (`kv.stats.vector_difference`, `vector_share`); `tokens`;
        `cosine` and `cosine_min`, mean and smallest cosine between two seeds' vectors as they are added; with controls
        `random_low`, `random_high`, `random_adopted_low`, `random_adopted_high`, the middle 95% of random vectors at
        that relative strength, and `p_random`, `p_random_adopted`, the share of them (plus one) that do as well as the
        mean of the vectors.

    Raises:
        ValueError: fewer than two seeds or questions, nothing to try, a steering whose vectors don't say which style
            they are of, keys alone, vectors that are zero, or what the builders of pairs and `kv.evaluate` refuse.
        KeyboardInterrupt: the extraction or the run was interrupted; with `out`, the replies go on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> made = dict(pairs=[2], shots=[1], seeds=[0, 1])
        >>> table = kv.analysis.vary_extraction(model, task, steering, doses=[2.0], **made, **brief)
        >>> table[["dose", "pairs", "vectors"]].values.tolist()
        [[2.0, 2.0, 2.0]]
    """
    check_cache_steering(steering)
    recipe = _check(steering, doses, pairs, shots, seeds)
    if steering.cv == 0:
        raise ValueError(
            f"{steering.label!r} edits keys only (cv=0), so it can't be scaled by cv; give it a value coefficient."
        )
    chats = [task.chat(q) for q in task.questions(split, n, seed)]
    if len(chats) < 2:
        raise ValueError(f"An interval over questions needs at least two of them, not {len(chats)}; ask for more.")
    factor = 1 / slot_norms(model, chats, slot=steering.slot)["values"].clamp_min(1e-12)
    made: list[_Vector] = []
    for s in dict.fromkeys(shots):
        for r in dict.fromkeys(seeds):
            drawn = ContrastiveSet.few_shot(
                task, model.tokenizer, style=recipe["style"], against=recipe["against"], n=max(pairs), shots=s, seed=r
            )
            differences = extract_pairs(model, drawn, keys=steering.vectors.card.keys or "post_rope", progress=progress)
            made += [_Vector(s, p, r, differences.take(range(p)).mean()) for p in dict.fromkeys(pairs)]
    cells: dict[tuple[_Vector, float], CacheSteering] = {}
    for vector in made:
        own = replace(steering, vectors=vector.vectors, name=None)
        check_adds(own)
        unit = _unit(own, factor.mean(0))
        for dose in dict.fromkeys(float(d) for d in doses):
            name = f"{vector.shots} shots {vector.pairs} pairs seed {vector.seed} dose {dose:g}"
            cells[vector, dose] = own.at(float(np.sign(steering.cv)) * dose / unit, name)
    grid = run_grid(
        model,
        task,
        cells,
        controls=_controls(cells, controls, seed),
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    rows = []
    for dose in dict.fromkeys(dose for _, dose in cells):
        replies = [part for key in grid.controls if key[1] == dose for part in grid.drawn(key)]
        correct = [float(part.correct.mean()) for part in replies]
        adopted = [float((part["style"] == recipe["style"]).mean()) for part in replies]
        for s in dict.fromkeys(shots):
            for p in dict.fromkeys(pairs):
                same = [key for key in cells if (key[0].shots, key[0].pairs, key[1]) == (s, p, dose)]
                row: dict[str, Any] = dict(dose=dose, shots=s, pairs=p, vectors=len(same))
                row |= _measure(grid, same, recipe["style"]) | _cosines([cells[key] for key in same])
                rows.append(row | band(row["accuracy"], correct) | band(row["adopted"], adopted, "adopted"))
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class _Vector:
    shots: int
    pairs: int
    seed: int
    vectors: KVVectors


def _check(
    steering: CacheSteering, doses: Sequence[float], pairs: Sequence[int], shots: Sequence[int], seeds: Sequence[int]
) -> Mapping[str, Any]:
    recipe = steering.vectors.card.recipe
    if not {"style", "against"} <= recipe.keys():
        raise ValueError(
            "The steering's vectors don't say which styles they contrast; pass vectors that kv.extract made from"
            " ContrastiveSet.few_shot."
        )
    for name, given in dict(doses=doses, pairs=pairs, shots=shots).items():
        if len(given) == 0:
            raise ValueError(f"{name} is empty, so there is nothing to extract or to steer with; pass at least one.")
    if len(set(seeds)) < 2:
        raise ValueError(
            f"Seeds are compared with each other, so two or more are needed, not {len(set(seeds))}; five are a good"
            " number."
        )
    if wrong := [d for d in doses if not 0 < d < float("inf")]:
        raise ValueError(f"There is a dose {wrong[0]}; doses must be positive numbers.")
    if wrong := [p for p in pairs if p < 1]:
        raise ValueError(f"{wrong[0]} pairs make no vector; extract from at least 1.")
    return recipe


def _unit(steering: CacheSteering, factor: torch.Tensor) -> float:
    """|S^V| / |V| averaged over the edited layers; `factor` is the mean of 1 / |V| over prompts, per layer."""
    size, layers = steering.added.values.flatten(1).norm(dim=-1), list(steering.edited_layers)
    if not size[layers].any():
        raise ValueError(
            "The values of a vector that was extracted anew are zero in the steered layers, so it has no relative"
            " strength; steer other layers."
        )
    return float((size * factor)[layers].mean())


_Key = tuple[_Vector, float]


def _controls(cells: Mapping[_Key, CacheSteering], n: int, seed: int) -> dict[_Key, Sequence[Intervention]]:
    """Of the first seed's vectors from most pairs, at each relative strength."""
    most = max(vector.pairs for vector, _ in cells)
    first = next(vector for vector, _ in cells if vector.pairs == most)
    return {key: own.controls(n, seed) for key, own in cells.items() if key[0] is first}


def _measure(grid: Grid[_Key], same: Sequence[_Key], style: str) -> dict[str, Any]:
    parts = [grid.of(key) for key in same]
    correct = np.stack([part.correct for part in parts]).astype(float)
    adopted = np.stack([part["style"] == style for part in parts]).astype(float)
    gain, taken = vector_difference(correct, grid.baseline.correct.tolist()), vector_share(adopted)
    row: dict[str, Any] = dict(
        cv=float(np.mean([cast(CacheSteering, grid.cells[key]).cv for key in same])), n=correct.shape[1]
    )
    for name, values in (("accuracy", correct.mean(1)), ("adopted", adopted.mean(1))):
        row |= {name: float(values.mean()), f"{name}_min": float(values.min()), f"{name}_max": float(values.max())}
    row |= dict(adopted_low=taken.low, adopted_high=taken.high, gain=gain.value, low=gain.low, high=gain.high)
    return row | dict(tokens=float(np.mean([part.tokens.mean() for part in parts])))


def _cosines(steerings: Sequence[CacheSteering]) -> dict[str, float]:
    """Between what any two of the steerings add."""
    added = [
        torch.cat([(each.ck * each.added.keys).flatten(), (each.cv * each.added.values).flatten()]).double()
        for each in steerings
    ]
    found = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in combinations(added, 2)]
    return dict(cosine=float(np.mean(found)), cosine_min=min(found))
