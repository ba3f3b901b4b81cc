"""Which layers and KV heads of a steering suffice, and which are needed: one forked run with a row a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ...evaluation.bands import band
from ...evaluation.evaluate import evaluate
from ...evaluation.identity import describe, hash_of
from ...evaluation.results import Results
from ...evaluation.tuning.search import check_disjoint
from ...interventions.cache import CacheSteering
from ...interventions.controls import Control, random_controls
from ...models.model import Model
from ...stats.intervals import wilson
from ...stats.significance import control_p, holm, mcnemar
from ...tasks.base import Task
from .masks import Kept, Mask, head_masks, layer_masks

_TESTS = ("p", "p_all")


def ablate_layers(
    model: Model,
    task: Task,
    steering: CacheSteering,
    ways: str | Sequence[str] = ("single", "leave one out", "from below", "from above"),
    parts: str | Sequence[str] | None = None,
    *,
    width: int = 2,
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
        controls: random vectors a mask, of the norm that the mask leaves in each layer; 0: none.
        split: never `"test"`; what is chosen here is confirmed there once, by `confirm_best`.

    Returns:
        A row a way, part and layer, behind one `"none"` (the baseline) and one `"all"` a part. Columns: `way`, `part`,
        `layer` and `head` (what the row is about), `layers` and `heads` (tuples: what is kept), `n`, `accuracy` with
        its Wilson interval `low`, `high`, `reasoned`, `tokens`; exact McNemar tests `p` against the baseline and
        `p_all` against all layers of the same part, and `p_holm`, `p_all_holm`, corrected for the distinct masks of the
        table; `random_low`, `random_high` and `random_reasoned_low`, `random_reasoned_high`, the middle 95% of the
        random vectors, `p_random` and `p_random_reasoned`, the share of them (plus one) that do at least as well;
        `p_random_family`, the share of random directions whose most accurate mask does, which corrects for having
        looked at all masks. `attrs` holds the ids of the `questions` and what was ablated.

    Raises:
        ValueError: the test split, an unknown way or part, a steering that adds nothing or to no layer, windows that
            don't fit, or what `kv.evaluate` refuses; before anything is computed.
    """
    masks = layer_masks(steering, ways, parts, width)
    settings = dict(
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    return _ablate(model, task, steering, masks, controls, settings)


def ablate_heads(
    model: Model,
    task: Task,
    steering: CacheSteering,
    ways: str | Sequence[str] = ("single", "leave one out"),
    parts: str | Sequence[str] | None = None,
    *,
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
        model, task, parts, controls, n, split, seed, offset, generation, batch_size, out, progress: as in
            `ablate_layers`.
        steering: its own heads are those that are left out or kept, in its own layers.
        ways: `"single"`: one head alone, in all steered layers; `"leave one out"`: all heads but one; `"single by
            layer"`: one head of one layer.

    Raises:
        ValueError: as `ablate_layers`.
    """
    masks = head_masks(steering, ways, parts)
    settings = dict(
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    return _ablate(model, task, steering, masks, controls, settings)


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
    kept = [Kept(row.part, tuple(row.layers), tuple(row.heads)) for row in masks.itertuples()]
    reached = masks["accuracy" if objective == "correct" else "reasoned"].tolist()
    size = [len(k.layers) * len(k.heads) * len(k.part.split(" and ")) for k in kept]
    best = kept[min(range(len(kept)), key=lambda i: (-reached[i], size[i]))].of(steering)
    methods = [steering, best, *_controls(best, controls, seed)]
    settings = dict(
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    return evaluate(model, task, methods, **settings)  # type: ignore[arg-type]


def _ablate(
    model: Model, task: Task, steering: CacheSteering, masks: Sequence[Mask], controls: int, settings: Mapping[str, Any]
) -> pd.DataFrame:
    if settings["split"] == "test":
        raise ValueError(
            "Layers and heads are never chosen on test questions; ablate on split='dev' and call confirm_best for the"
            " test."
        )
    kept = {mask.kept: mask.kept.of(steering) for mask in masks}
    drawn = {key: _controls(own, controls, settings["seed"]) for key, own in kept.items()}
    results = evaluate(model, task, [*kept.values(), *chain(*drawn.values())], **settings)
    if not results.complete:
        raise KeyboardInterrupt("the ablation was interrupted")
    by_label = {str(label): part for label, part in results.rows.groupby("intervention", sort=False)}
    whole = {mask.kept.part: by_label[kept[mask.kept].label].correct.tolist() for mask in masks if mask.way == "all"}
    plain = by_label["baseline"]
    measured = {}
    for key, own in kept.items():
        part = by_label[own.label]
        tests = dict(
            p=mcnemar(part.correct.tolist(), plain.correct.tolist()),
            p_all=mcnemar(part.correct.tolist(), whole[key.part]),
        )
        measured[key] = _measure(part) | tests | _against(part, [by_label[c.label] for c in drawn[key]])
    if by_mask := [[float(by_label[c.label].correct.mean()) for c in own] for own in drawn.values() if own]:
        best = np.max(by_mask, axis=0).tolist()
        for key in kept:
            measured[key]["p_random_family"] = control_p(measured[key]["accuracy"], best)
    everything = {mask.kept for mask in masks if mask.way == "all"}
    for test, family in zip(_TESTS, (list(kept), [key for key in kept if key not in everything]), strict=True):
        for key, p in zip(family, holm([measured[key][test] for key in family]), strict=True):
            measured[key][f"{test}_holm"] = p
    for key in everything:
        measured[key]["p_all"] = None
    rows: list[dict[str, Any]] = [
        dict(way="none", part="", layer=None, head=None, layers=(), heads=(), **_measure(plain))
    ]
    for mask in masks:
        rows.append(
            dict(
                way=mask.way,
                part=mask.kept.part,
                layer=mask.layer,
                head=mask.head,
                layers=mask.kept.layers,
                heads=mask.kept.heads,
            )
        )
        rows[-1] |= measured[mask.kept]
    tests_of = [column for test in _TESTS for column in (test, f"{test}_holm")]
    last = [
        "random_low",
        "random_high",
        "p_random",
        "p_random_family",
        "random_reasoned_low",
        "random_reasoned_high",
        "p_random_reasoned",
    ]
    named = ["way", "part", "layer", "head", "layers", "heads", *_measure(plain), *tests_of, *last]
    table = (
        pd.DataFrame(rows)
        .reindex(columns=named)
        .astype({"layer": "Int64", "head": "Int64", **{c: float for c in [*tests_of, *last]}})
    )
    table.attrs |= {"questions": plain.question.tolist(), "steering": hash_of(describe(steering))}
    return table


def _controls(steering: CacheSteering, n: int, seed: int) -> list[Control]:
    return random_controls(steering, n, seed) if n else []


def _measure(part: pd.DataFrame) -> dict[str, Any]:
    low, high = wilson(int(part.correct.sum()), len(part))
    return dict(
        n=len(part),
        accuracy=part.correct.mean(),
        low=low,
        high=high,
        reasoned=part.reasoned.mean(),
        tokens=part.tokens.mean(),
    )


def _against(part: pd.DataFrame, controls: Sequence[pd.DataFrame]) -> dict[str, float]:
    """Where the middle 95% of the controls lie, in accuracy and in reasoning, and how many of them do as well."""
    found: dict[str, float] = {}
    for column, name in (("correct", ""), ("reasoned", "reasoned")):
        found |= band(float(part[column].mean()), [float(control[column].mean()) for control in controls], name)
    return found
