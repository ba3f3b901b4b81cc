"""Ablation of a steering by layer and KV head: which layers and heads suffice for its effect, and which it needs. All
masks are evaluated in one forked run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...evaluation.grids import Grid, run_grid
from ...evaluation.identity import describe, hash_of
from ...evaluation.measures import measure_briefly
from ...interventions.cache import CacheSteering
from ...models.model import Model
from ...stats.significance import control_p, holm, mcnemar
from ...tasks.base import Task
from .masks import KeptHeads, Mask, head_masks, layer_masks

_TESTS = ("p", "p_all")
_BANDS = (
    *("random_low", "random_high", "p_random", "p_random_family"),
    *("random_reasoned_low", "random_reasoned_high", "p_random_reasoned"),
)


def ablate_layers(
    model: Model,
    task: Task,
    steering: CacheSteering,
    ways: str | Sequence[str] = ("single", "leave one out", "from below", "from above"),
    parts: str | Sequence[str] | None = None,
    *,
    width: int = 2,
    every: int = 1,
    controls: int = 40,
    n: int | None = 40,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate `steering` with only some of its layers, every mask in one forked run beside the baseline and the whole.

    A layer means exactly that layer, and coefficients stay as they are. What several ways ask for is decoded once.

    Args:
        model, task, n, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`.
        steering: its own layers are those that are left out or kept: 1 and above unless it names others, layer 0 among
            them.
        ways: `"single"`: one layer alone; `"leave one out"`: all but one; `"from below"`: the lowest up to this one;
            `"from above"`: this one up to the highest; `"windows"`: `width` neighbours among the steered layers, named
            by the first.
        parts: of `"keys and values"`, `"keys"`, `"values"`; `None`: all that the steering adds something to.
        width: layers in a window.
        every: masks are named by each n-th of the steered layers only, for deep models; the steering stays whole.
        controls: random vectors a mask, of the norm that the mask leaves in each layer; 0: none.
        split: never `"test"`; what is chosen here is confirmed there once, by `confirm_best`.

    Returns:
        One row per way, part and layer, after one `"none"` (the baseline) and one `"all"` per part. Columns: `way`,
        `part`, `layer` and `head` (what the row is about), `layers` and `heads` (tuples: what is kept), `n`, `accuracy`
        with its Wilson interval `low`, `high`, `reasoned`, `tokens`; exact McNemar tests `p` against the baseline and
        `p_all` against all layers of the same part, and `p_holm`, `p_all_holm`, corrected for the distinct masks of the
        table; `random_low`, `random_high` and `random_reasoned_low`, `random_reasoned_high`, the middle 95% of the
        random vectors, `p_random` and `p_random_reasoned`, the share of them (plus one) that do at least as well;
        `p_random_family`, the share of random directions whose most accurate mask does, which corrects for having
        looked at all masks. `attrs` holds the ids of the `questions` and what was ablated.

    Raises:
        ValueError: the test split, an unknown way or part, a steering that adds nothing or to no layer, windows that
            don't fit, `every` below 1, or what `kv.evaluate` refuses; before anything is computed.
        KeyboardInterrupt: the run was interrupted; with `out`, it goes on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.ablate_layers(model, task, steering, "single", controls=0, **brief)
        >>> table[["way", "part", "layers"]].values.tolist()
        [['none', '', ()], ['all', 'values', (1, 2, 3)], ['single', 'values', (1,)], ['single', 'values', (2,)],
         ['single', 'values', (3,)]]
    """
    _check_split(split)
    masks = layer_masks(steering, ways, parts, width, every)
    grid = run_grid(
        model,
        task,
        {mask.kept: mask.kept.restrict(steering) for mask in masks},
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
    return _tabulate(grid, masks, steering)


def ablate_heads(
    model: Model,
    task: Task,
    steering: CacheSteering,
    ways: str | Sequence[str] = ("single", "leave one out"),
    parts: str | Sequence[str] | None = None,
    *,
    every: int = 1,
    controls: int = 40,
    n: int | None = 40,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate `steering` with only some of its KV heads: as `ablate_layers`, with the same columns.

    Args:
        model, task, parts, every, controls, n, split, seed, offset, generation, batch_size, out, progress: as in
            `ablate_layers`; `every` thins out the layers of `"single by layer"`.
        steering: its own heads are those that are left out or kept, in its own layers.
        ways: `"single"`: one head alone, in all steered layers; `"leave one out"`: all heads but one; `"single by
            layer"`: one head of one layer.

    Raises:
        ValueError, KeyboardInterrupt: as `ablate_layers`.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.ablate_heads(model, task, steering, "single", controls=0, **brief)
        >>> table[["way", "heads"]].values.tolist()
        [['none', ()], ['all', (0, 1)], ['single', (0,)], ['single', (1,)]]
    """
    _check_split(split)
    masks = head_masks(steering, ways, parts, every)
    grid = run_grid(
        model,
        task,
        {mask.kept: mask.kept.restrict(steering) for mask in masks},
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
    return _tabulate(grid, masks, steering)


def _check_split(split: str) -> None:
    if split == "test":
        raise ValueError(
            "Layers and heads are never chosen on test questions; ablate on split='dev' and call confirm_best for the"
            " test."
        )


def _tabulate(grid: Grid[KeptHeads], masks: Sequence[Mask], steering: CacheSteering) -> pd.DataFrame:
    """One row for the baseline, and one for each mask. Masks that keep the same share a cell of the grid."""
    measured = _measure_cells(grid, {mask.kept.part: mask.kept for mask in masks if mask.way == "all"})
    plain = measure_briefly(grid.baseline)
    rows: list[dict[str, Any]] = [dict(way="none", part="", layer=None, head=None, layers=(), heads=()) | plain]
    for mask in masks:
        kept = mask.kept
        place = dict(way=mask.way, part=kept.part, layer=mask.layer, head=mask.head)
        rows.append(place | dict(layers=kept.layers, heads=kept.heads) | measured[kept])
    tests = [column for test in _TESTS for column in (test, f"{test}_holm")]
    named = ["way", "part", "layer", "head", "layers", "heads", *plain, *tests, *_BANDS]
    kinds = {"layer": "Int64", "head": "Int64"} | dict.fromkeys([*tests, *_BANDS], float)
    table = pd.DataFrame(rows).reindex(columns=named).astype(kinds)
    table.attrs |= {"questions": grid.questions, "steering": hash_of(describe(steering))}
    return table


def _measure_cells(grid: Grid[KeptHeads], whole: Mapping[str, KeptHeads]) -> dict[KeptHeads, dict[str, Any]]:
    """What each cell's replies are like, its tests against the baseline and the whole of its part, and its controls."""
    measured: dict[KeptHeads, dict[str, Any]] = {}
    for kept in grid.cells:
        own, all_of_part = (grid.of(key).correct.tolist() for key in (kept, whole[kept.part]))
        tests = dict(p=grid.p_against(kept), p_all=mcnemar(own, all_of_part))
        beside = grid.beside_controls(kept) | grid.beside_controls(kept, "reasoned", "reasoned")
        measured[kept] = measure_briefly(grid.of(kept)) | tests | beside
    if by_mask := [[float(part.correct.mean()) for part in grid.drawn(kept)] for kept in grid.cells if grid.controls]:
        best = np.max(by_mask, axis=0).tolist()
        for row in measured.values():
            row["p_random_family"] = control_p(row["accuracy"], best)
    for test, family in zip(_TESTS, (list(measured), [k for k in measured if k != whole[k.part]]), strict=True):
        for kept, p in zip(family, holm([measured[kept][test] for kept in family]), strict=True):
            measured[kept][f"{test}_holm"] = p
    for kept in whole.values():
        measured[kept]["p_all"] = None
    return measured
