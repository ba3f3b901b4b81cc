"""The steered slot and the offset token: the same vectors in other slots of the prompt, or read through other offset
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.grids import run_grid
from ...evaluation.measures import measure
from ...interventions.base import Intervention
from ...interventions.cache import CacheSteering, check_cache_steering
from ...interventions.offset import OtherOffset
from ...interventions.together import Together
from ...models.model import Model
from ...models.tokens import offset_token
from ...stats.significance import holm
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
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Put the same vectors, with the same coefficients, into other slots of the prompt; all slots in one run.

    Args:
        model, task, n, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`.
        steering: its own slot counts for nothing.
        slots: of the prompt, counted from its end: -1 is the last.
        controls: random vectors a slot; 0: none.
        split: never `"test"`.

    Returns:
        One row per slot, after one for the baseline (without a slot): `slot`, `token` (what stands there in most
        prompts); `dose_keys` and `dose_values`, the norm of what is added over the norm of that slot's own keys or
        values, averaged over layers and prompts; `n`, `accuracy` and the other measures of `coefficient_grid`; the
        exact McNemar test `p` against the baseline and `p_holm`; with controls `random_low`, `random_high`, the middle
        95% of their accuracies, and `p_random`, the share of them (plus one) that are as accurate.

    Raises:
        ValueError: the test split, no slots, one that isn't negative or lies outside a prompt, vectors that are zero,
            or what `kv.evaluate` refuses.
        KeyboardInterrupt: the run was interrupted; with `out`, the replies go on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.slot_response(model, task, steering, [-1, -2], **brief)
        >>> table[["slot", "token"]].values.tolist()
        [[<NA>, ''], [-1, '\\n'], [-2, 'assistant']]
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
    cells = {slot: replace(steering, slot=slot, name=f"slot {slot}") for slot in dict.fromkeys(slots)}
    grid = run_grid(
        model,
        task,
        cells,
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
    prompts = [task.chat(q) for q in task.questions(split, n, seed)]
    place: dict[str, Any] = dict(slot=None, token="", dose_keys=0.0, dose_values=0.0)
    rows = [place | measure(grid.baseline, steering.style)]
    for slot, own in cells.items():
        unit = own.unit_doses(model, prompts)
        place = dict(slot=slot, token=_token(model, prompts, slot))
        place |= dict(dose_keys=abs(own.ck) * unit["keys"], dose_values=abs(own.cv) * unit["values"])
        tested = dict(p=grid.p_against(slot)) | grid.beside_controls(slot)
        rows.append(place | measure(grid.of(slot), steering.style) | tested)
    return _correct(pd.DataFrame(rows).astype({"slot": "Int64"}))


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
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Read the steered slot through other offset tokens, each beside its own baseline; all of them in one run.

    Args:
        model, task, n, seed, generation, batch_size, out, progress: as in `kv.evaluate`.
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
        KeyboardInterrupt: the run was interrupted; with `out`, the replies go on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.offset_response(model, task, steering, ["."], **brief)
        >>> table[["offset", "vector"]].values.tolist()
        [["'.'", 'baseline'], ["'.'", 'steering']]
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
    plain = {o: OtherOffset(o) for o in real}
    steered: dict[str | int, Intervention] = {o: Together(steering, plain[o]) for o in real}
    drawn = {o: [Together(c, plain[o]) for c in steering.controls(controls, seed)] for o in real}
    grid = run_grid(
        model,
        task,
        steered,
        controls=drawn,
        beside=list(plain.values()),
        n=n,
        split=split,
        seed=seed,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    rows: list[dict[str, Any]] = []
    for o in chosen:
        if o is None:
            replies = grid.of_label(NO_OFFSET)
            rows.append(dict(offset="none", vector="baseline") | measure(replies, steering.style) | dict(note=""))
            rows.append(dict(offset="none", vector="steering", note="no token is left to read the last slot"))
            continue
        label = plain[o].label
        tested = dict(p=grid.p_against(o, label)) | grid.beside_controls(o)
        for vector, replies, tests in (("baseline", grid.of_label(label), {}), ("steering", grid.of(o), tested)):
            measured = measure(replies, steering.style) | tests
            rows.append(dict(offset=repr(o), vector=vector) | measured | dict(note=""))
    table = _correct(pd.DataFrame(rows)).astype({"n": "Int64"})
    return table[[c for c in table.columns if c != "note"] + ["note"]]


def _check_split(split: str) -> None:
    if split == "test":
        raise ValueError("Slots and offset tokens are never chosen on test questions; look at split='dev'.")


def _correct(table: pd.DataFrame) -> pd.DataFrame:
    """The table with Holm's correction for all of its tests."""
    table = table if "p" in table else table.assign(p=float("nan"))
    place = table.columns.get_loc("p") + 1
    table.insert(place, "p_holm", pd.Series(holm(table.p.dropna().tolist()), index=table.p.dropna().index, dtype=float))
    return table


def _token(model: Model, prompts: Sequence[Any], slot: int) -> str:
    """The text of the token that stands most often at this slot."""
    ids = pd.Series([model.encode(p)[slot] for p in prompts])
    return model.tokenizer.decode([int(ids.mode()[0])])
