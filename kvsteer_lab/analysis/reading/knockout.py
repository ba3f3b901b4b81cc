"""Knock-out of reading, judged by what is said: accuracy and reasoning with the slot hidden from some heads, layers or
steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.evaluate import evaluate
from ...generation.generate import check_intervention
from ...interventions.base import Intervention
from ...interventions.hiding import HideSlot
from ...interventions.together import Together
from ...models.model import Model
from ...stats.intervals import wilson
from ...stats.significance import holm, mcnemar
from ...tasks.base import Task
from ..checks import check_edits
from .knock_outs import DEFAULT_STEPS, knock_outs


def knock_out_reading(
    model: Model,
    task: Task,
    intervention: Intervention | None = None,
    ways: str | Sequence[str] = (
        "everything",
        "one layer",
        "all but one layer",
        "one head",
        "all but one head",
        "from step",
        "other slot",
    ),
    *,
    steps: Sequence[int] = DEFAULT_STEPS,
    others: int = 5,
    slot: int = -1,
    n: int | None = 40,
    split: str = "dev",
    seed: int = 0,
    offset: str | int = "\n",
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    out: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer a task's questions with the slot hidden in every way: one forked decode with one row per knock-out.

    Args:
        model, task, n, split, seed, offset, generation, batch_size, out, progress: as in `kv.evaluate`.
        intervention: what is there to be read: a steering, `kv.FewShot` examples; `None`: the prompt as it is.
        ways: as in `nats_of_reading`.
        steps: for `"from step"` and `"only at step"`.
        others: other slots of the prompt, each hidden from everything, a control.
        slot: which slot is hidden; negative counts from the prompt's end.

    Returns:
        One row per knock-out, behind one `"nothing"` (the slot is read). Columns: `intervention`, the label of what is
        there to be read; `way`, `layer`, `head`, `step`, `slot`; `n`, `accuracy` with its Wilson interval `low`,
        `high`, `reasoned` with `reasoned_low`, `reasoned_high`, `tokens`; `style`, the commonest one that is detected,
        and `same_style`, the share of replies in the style that their question gets with the slot read, with
        `same_style_low`, `same_style_high`; exact McNemar tests against `"nothing"`, of accuracy `p` and of reasoning
        `p_reasoned`, and both corrected for all knock-outs of the table, `p_holm` and `p_reasoned_holm`.
        `attrs["questions"]` holds the ids.

    Raises:
        ValueError: no or unknown ways, no steps, a steering that adds nothing, or what `kv.evaluate` refuses; before
            anything is computed.
        UnsteerableModelError: a model that computes attention in code of its own.
    """
    method = check_intervention(model, intervention)
    check_edits(method)
    questions = task.questions(split, n, seed)
    lengths = [len(model.encode(method.chat(task.chat(q)))) for q in questions]
    outs = knock_outs(model, ways, steps, slot, others, lengths, seed)
    hidden: dict[HideSlot, Intervention] = {
        o.hide: o.hide if intervention is None else Together(intervention, o.hide) for o in outs
    }
    methods = [*([] if intervention is None else [intervention]), *hidden.values()]
    results = evaluate(
        model,
        task,
        methods,
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    if not results.complete:
        raise KeyboardInterrupt("the knock-out was interrupted")
    by_label = {str(label): part for label, part in results.rows.groupby("intervention", sort=False)}
    read = by_label[method.label]
    rows: list[dict[str, Any]] = [
        dict(
            intervention=method.label,
            way="nothing",
            layer=None,
            head=None,
            step=None,
            slot=slot,
            **_measure(read, read),
        )
    ]
    for one in outs:
        part = by_label[hidden[one.hide].label]
        tests = dict(
            p=mcnemar(part.correct.tolist(), read.correct.tolist()),
            p_reasoned=mcnemar(part.reasoned.tolist(), read.reasoned.tolist()),
        )
        where = dict(
            intervention=method.label, way=one.way, layer=one.layer, head=one.head, step=one.step, slot=one.hide.slot
        )
        rows.append(where | _measure(part, read) | tests)
    table = pd.DataFrame(rows).astype({c: "Int64" for c in ("layer", "head", "step")})
    for test in ("p", "p_reasoned"):
        table[f"{test}_holm"] = [float("nan"), *holm(table[test].iloc[1:].tolist())]
    table.attrs["questions"] = read.question.tolist()
    return table


def _measure(part: pd.DataFrame, read: pd.DataFrame) -> dict[str, Any]:
    found: dict[str, Any] = dict(n=len(part))
    for column, name, low, high in (
        ("correct", "accuracy", "low", "high"),
        ("reasoned", "reasoned", "reasoned_low", "reasoned_high"),
    ):
        bounds = wilson(int(part[column].sum()), len(part))
        found |= {name: part[column].mean(), **dict(zip((low, high), bounds, strict=True))}
    same = int((part["style"].to_numpy() == read["style"].to_numpy()).sum())
    found |= dict(tokens=part.tokens.mean(), style=part["style"].mode().iloc[0], same_style=same / len(part))
    return found | dict(zip(("same_style_low", "same_style_high"), wilson(same, len(part)), strict=True))
