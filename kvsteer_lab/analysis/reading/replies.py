"""Knock-out of reading, measured in replies: accuracy and reasoning with the slot hidden from heads, layers, steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...evaluation.grids import run_grid
from ...evaluation.measures import measure_beside
from ...interventions.base import Intervention
from ...interventions.checks import check_intervention
from ...interventions.hiding import HideSlot
from ...interventions.together import Together
from ...models.model import Model
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
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
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
        layers, heads: as in `nats_of_reading`: each layer is `n` replies more a way, and each head of it, too.
        others: other slots of the prompt, each hidden from everything, a control.
        slot: which slot is hidden; negative counts from the prompt's end.

    Returns:
        One row per knock-out, after one `"nothing"` (the slot is read). Columns: `intervention`, the label of what is
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
        KeyboardInterrupt: the run was interrupted; with `out`, it goes on there.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> brief = dict(n=2, generation={"max_new_tokens": 4}, progress=False)
        >>> table = kv.analysis.knock_out_reading(model, task, steering, ("everything", "one layer"), **brief)
        >>> table.way.tolist()
        ['nothing', 'everything', 'one layer', 'one layer', 'one layer', 'one layer']
    """
    method = check_intervention(model, intervention)
    check_edits(method)
    questions = task.questions(split, n, seed)
    lengths = [len(model.encode(method.chat(task.chat(q)))) for q in questions]
    outs = knock_outs(model, ways, steps, slot, others, lengths, seed, layers, heads)
    hidden: dict[HideSlot, Intervention] = {
        o.hide: o.hide if intervention is None else Together(intervention, o.hide) for o in outs
    }
    grid = run_grid(
        model,
        task,
        hidden,
        beside=() if intervention is None else (intervention,),
        n=n,
        split=split,
        seed=seed,
        offset=offset,
        generation=generation,
        batch_size=batch_size,
        out=out,
        progress=progress,
    )
    read = grid.of_label(method.label)
    place = dict(intervention=method.label, way="nothing", layer=None, head=None, step=None, slot=slot)
    rows: list[dict[str, Any]] = [place | measure_beside(read, read)]
    for one in outs:
        part = grid.of(one.hide)
        place = dict(way=one.way, layer=one.layer, head=one.head, step=one.step, slot=one.hide.slot)
        tests = dict(
            p=mcnemar(part.correct.tolist(), read.correct.tolist()),
            p_reasoned=mcnemar(part.reasoned.tolist(), read.reasoned.tolist()),
        )
        rows.append(dict(intervention=method.label) | place | measure_beside(part, read) | tests)
    table = pd.DataFrame(rows).astype({c: "Int64" for c in ("layer", "head", "step")})
    for test in ("p", "p_reasoned"):
        table[f"{test}_holm"] = [float("nan"), *holm(table[test].iloc[1:].tolist())]
    table.attrs["questions"] = read.question.tolist()
    return table
