"""Where the vector goes and what is read behind it: the steered slot, and the offset token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ...evaluation.bands import band, control_means
from ...evaluation.doses import check_cache_steering, unit_doses
from ...evaluation.evaluate import evaluate
from ...evaluation.measures import measure, style_of
from ...evaluation.results import Results
from ...interventions.base import Intervention
from ...interventions.cache import CacheSteering
from ...interventions.controls import random_controls
from ...interventions.offset import OtherOffset
from ...interventions.together import Together
from ...models.model import Model
from ...models.prompts import offset_token
from ...stats.significance import holm, mcnemar
from ...tasks.base import Task

NO_OFFSET = "no offset"


def slot_response(
    model: Model,
    task: Task,
    steering: CacheSteering,
    slots: Sequence[int] = (-1, -2, -3, -4),
    *,
    controls: int = 0,
    n: int | None = 24,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Put the same vectors, with the same coefficients, into other slots of the prompt; all slots in one run.

    Args:
        model, task, n, seed, offset, generation, batch_size, progress: as in `kv.evaluate`.
        steering: its own slot counts for nothing.
        slots: of the prompt, counted from its end: -1 is the last.
        controls: random vectors a slot; 0: none.
        split: never `"test"`.

    Returns:
        One row per slot behind one of the baseline (without a slot): `slot`, `token` (what stands there in most
        prompts); `dose_keys` and `dose_values`, the norm of what is added over the norm of that slot's own keys or
        values, averaged over layers and prompts; `n`, `accuracy` and the other measures of `coefficient_grid`; the
        exact McNemar test `p` against the baseline and `p_holm`; with controls `random_low`, `random_high`, the middle
        95% of their accuracies, and `p_random`, the share of them (plus one) that are as accurate.

    Raises:
        ValueError: the test split, no slots, one that isn't negative or lies outside a prompt, vectors that are zero,
            or what `kv.evaluate` refuses.
    """
    _check_split(split)
    if len(slots) == 0:
        raise ValueError("There are no slots to steer; pass at least one, -1 for the last.")
    if wrong := [s for s in slots if isinstance(s, bool) or not isinstance(s, int) or s >= 0]:
        raise ValueError(
            f"There is a slot {wrong[0]!r}; count slots from the prompt's end with negative whole numbers, -1 for the"
            " last."
        )
    check_cache_steering(steering)
    methods = {slot: replace(steering, slot=slot, name=f"slot {slot}") for slot in dict.fromkeys(slots)}
    drawn = [c for own in methods.values() for c in (random_controls(own, controls, seed) if controls else [])]
    settings: dict[str, Any] = dict(
        n=n, split=split, seed=seed, offset=offset, generation=generation, batch_size=batch_size, progress=progress
    )
    results = _finished(evaluate(model, task, [*methods.values(), *drawn], **settings))
    prompts = [task.chat(q) for q in task.questions(split, n, seed)]
    rows = [
        dict(slot=None, token="", dose_keys=0.0, dose_values=0.0, **measure(results.of("baseline"), style_of(steering)))
    ]
    for slot, own in methods.items():
        unit = unit_doses(model, own, prompts)
        place = dict(
            slot=slot,
            token=_token(model, prompts, slot),
            dose_keys=abs(own.ck) * unit["keys"],
            dose_values=abs(own.cv) * unit["values"],
        )
        rows.append(
            place | measure(results.of(own.label), style_of(steering)) | _tested(results, own.label, "baseline")
        )
    table = pd.DataFrame(rows).astype({"slot": "Int64"})
    return _corrected(table)


def offset_response(
    model: Model,
    task: Task,
    steering: CacheSteering,
    offsets: Sequence[str | int | None] = ("\n", ".", " ", None),
    *,
    controls: int = 0,
    n: int | None = 24,
    split: str = "dev",
    seed: int = 0,
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """Read the steered slot through other offset tokens, each beside its own baseline; all of them in one run.

    Args:
        model, task, n, seed, generation, batch_size, progress: as in `kv.evaluate`.
        steering: at the last slot.
        offsets: each a text that is one token, or an id; `None` for none. Without an offset token no token is left to
            read the last slot, so there is a baseline and no steering.
        controls: random vectors an offset; 0: none.
        split: never `"test"`.

    Returns:
        Two rows per offset: `offset`, `vector` (`"baseline"` or `"steering"`), `n`, `accuracy` and the other measures
        of `coefficient_grid`, the exact McNemar test `p` of the steering against the baseline with the same offset,
        `p_holm`, with controls the columns of `slot_response`, and `note`, why a row is missing.

    Raises:
        ValueError: the test split, no offsets, one that isn't one token, a steering of another slot, vectors that are
            zero, or what `kv.evaluate` refuses.
    """
    _check_split(split)
    if len(offsets) == 0:
        raise ValueError("There are no offset tokens to try; pass at least one, such as '\\n'.")
    check_cache_steering(steering)
    if steering.slot != -1:
        raise ValueError(
            f"{steering.label!r} edits slot {steering.slot}, but it's the last slot, -1, that the offset token reads"
            " first; steer that one."
        )
    chosen = list(dict.fromkeys(offsets))
    real = [o for o in chosen if o is not None]
    for known in real:
        offset_token(model.tokenizer, known)
    pairs: dict[str | int, tuple[Intervention, Intervention]] = {
        o: (OtherOffset(o), Together(steering, OtherOffset(o))) for o in real
    }
    settings: dict[str, Any] = dict(
        n=n, split=split, seed=seed, generation=generation, batch_size=batch_size, progress=progress
    )
    drawn = [
        Together(c, OtherOffset(o))
        for o in real
        for c in (random_controls(steering, controls, seed) if controls else [])
    ]
    results = _finished(evaluate(model, task, [*(m for pair in pairs.values() for m in pair), *drawn], **settings))
    style = style_of(steering)
    rows: list[dict[str, Any]] = []
    for o in chosen:
        if o is None:
            rows.append(dict(offset="none", vector="baseline", **measure(results.of(NO_OFFSET), style), note=""))
            rows.append(dict(offset="none", vector="steering", note="no token is left to read the last slot"))
            continue
        plain, steered = (method.label for method in pairs[o])
        rows.append(dict(offset=repr(o), vector="baseline", **measure(results.of(plain), style), note=""))
        rows.append(
            dict(
                offset=repr(o),
                vector="steering",
                **measure(results.of(steered), style),
                **_tested(results, steered, plain),
                note="",
            )
        )
    table = _corrected(pd.DataFrame(rows)).astype({"n": "Int64"})
    return table[[c for c in table.columns if c != "note"] + ["note"]]


def _check_split(split: str) -> None:
    if split == "test":
        raise ValueError("Slots and offset tokens are never chosen on test questions; look at split='dev'.")


def _finished(results: Results) -> Results:
    if not results.complete:
        raise KeyboardInterrupt("the run was interrupted")
    return results


def _tested(results: Results, label: str, against: str) -> dict[str, float]:
    own = results.of(label).correct
    found = dict(p=mcnemar(own.tolist(), results.of(against).correct.tolist()))
    return found | band(float(own.mean()), control_means(results.rows, label))


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """With Holm's correction for all tests of the table."""
    table = table if "p" in table else table.assign(p=float("nan"))
    place = table.columns.get_loc("p") + 1
    table.insert(place, "p_holm", pd.Series(holm(table.p.dropna().tolist()), index=table.p.dropna().index, dtype=float))
    return table


def _token(model: Model, prompts: Sequence[Any], slot: int) -> str:
    """The text of the token that stands most often at this slot."""
    ids = pd.Series([model.encode(p)[slot] for p in prompts])
    return model.tokenizer.decode([int(ids.mode()[0])])
