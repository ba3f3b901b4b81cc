"""Attention to one slot of the prompt, by layer, query head and decode step: which heads look at the steered slot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..._util.batching import in_batches
from ...edits.cache import slot_from_end
from ...generation.generate import check_interventions
from ...generation.rows import group_rows
from ...generation.scoring import logits_along
from ...interventions.base import Intervention
from ...models.attention import Attention, Watching, query_heads
from ...models.finite import check_logits
from ...models.lock import locked
from ...models.model import Model
from ...models.prompts import Prompt
from .followed_text import Continuations, FollowedText, follow


def attention_to_slot(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    interventions: Intervention | Sequence[Intervention] | None = None,
    continuations: Continuations = None,
    *,
    steps: int = 8,
    slot: int = -1,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 32,
) -> pd.DataFrame:
    """How much each query head attends to one slot of the prompt while the answer is written, beside what it gives to
    the prompt's other slots.

    The weights are those that the model itself computes from queries and cached keys: soft-capping, sinks and windows
    are in them. Eager attention need not be asked for: `kvsteer_lab.models.attention` takes the place of the model's
    own while this runs. A weight says where a head looks, not what effect this has.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        interventions: what to compare; `None`: the baseline. Put random controls and the baseline beside a steering.
        continuations: texts or token ids, one a prompt, that every intervention reads; `None`: each reads what it says
            itself, greedily.
        steps: how many; step 0 is the offset token, step t reads the t-th token of the answer.
        slot: which slot of the prompt; negative counts from its end.
        chat, offset: as in `kv.generate`.
        batch_size: rows read together; halved where memory runs out.

    Returns:
        One row per intervention, prompt, step, layer and query head: `control_of` (for a control, what it controls),
        `kv_head`, `token` (what is read at
        that step), `attention`, `other` (the mean weight on the prompt's other slots, as far as the token can read
        them) and `share`, the share of the prompt's slots that get as much as this one or more: 1 / slots where none
        gets more. Texts that end earlier have fewer steps.

    Raises:
        ValueError: no prompts or steps, a slot that isn't there, a steering that adds nothing, or what `kv.generate`
            refuses; before anything is computed. Logits that are NaN or infinite.
        UnsteerableModelError: a model that computes attention in code of its own.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> prompts = [task.chat(q) for q in task.questions("dev", 2)]
        >>> table = kv.analysis.attention_to_slot(model, prompts, steering, steps=2)
        >>> bool(table.attention.between(0, 1).all()), sorted(set(table.step))
        (True, [0, 1])
    """
    query_heads(model.hf)
    rows = follow(
        model, prompts, interventions, continuations, steps, slot, chat=chat, offset=offset, batch_size=batch_size
    )
    tables: list[pd.DataFrame] = []
    for group in group_rows(model, [each.row for each in rows]):
        for _, found in in_batches(
            group, batch_size, lambda batch: _look(model, [rows[i] for i in batch], steps, slot)
        ):
            tables += found
    order = {(each.intervention, each.prompt): number for number, each in enumerate(rows)}
    tables.sort(key=lambda t: order[t.intervention.iloc[0], t.prompt.iloc[0]])
    table = pd.concat(tables, ignore_index=True)
    controlled = {method.label: method.control_of for method in check_interventions(model, interventions)}
    table.insert(1, "control_of", table.intervention.map(controlled).astype(object))
    return table


@locked
@torch.no_grad()
def _look(model: Model, rows: Sequence[FollowedText], steps: int, slot: int) -> list[pd.DataFrame]:
    width = max(len(each.row.cached) for each in rows)
    origin = [width + max(len(each.row.read) for each in rows) - len(each.row.read) for each in rows]
    found: dict[int, list[tuple[int, int, np.ndarray]]] = {i: [] for i in range(len(rows))}

    def look(attention: Attention) -> None:
        begin = attention.slot_of(0)
        for i, each in enumerate(rows):
            first = width - len(each.row.cached)
            at = first + len(each.row.cached) - slot_from_end(slot, len(each.row.cached), i) + begin
            queries = [
                q
                for q in range(attention.query.shape[2])
                if 0 <= attention.column + q - origin[i] < min(steps, len(each.read))
            ]
            of_prompt = slice(max(0, first + begin), max(0, width + begin))
            for q in queries:
                weights = attention.weights[i, :, q, of_prompt].float().cpu().numpy()
                readable = attention.readable[i, :, q, of_prompt].any(0).cpu().numpy()
                found[i].append(
                    (
                        attention.layer,
                        attention.column + q - origin[i],
                        _of_slot(weights, readable, at - of_prompt.start),
                    )
                )

    with Watching(model.hf, width, look):
        for logits, _ in logits_along(model, [each.row for each in rows], [each.target for each in rows]):
            check_logits(logits)
    return [_table(model, each, found[i]) for i, each in enumerate(rows)]


def _of_slot(weights: np.ndarray, readable: np.ndarray, at: int) -> np.ndarray:
    """Of each head, `[heads, 3]`: the weight on the slot, the mean on the prompt's others, the share of slots that get
    as much or more.
    """
    missing = np.full(len(weights), np.nan)
    if at < 0 or not readable.any():  # the window has moved past it
        return np.stack([np.zeros(len(weights)), missing, missing], -1)
    own = weights[:, at]
    rest = weights[:, readable & (np.arange(len(readable)) != at)]
    other = rest.mean(1) if rest.shape[1] else missing
    return np.stack([own, other, (weights[:, readable] >= own[:, None]).mean(1)], -1)


def _table(model: Model, each: FollowedText, found: Sequence[tuple[int, int, np.ndarray]]) -> pd.DataFrame:
    n = query_heads(model.hf)
    group = n // model.n_kv_heads
    rows = [
        (
            each.intervention,
            each.prompt,
            step,
            model.tokenizer.decode([each.read[step]]),
            layer,
            head,
            head // group,
            *map(float, values[head]),
        )
        for layer, step, values in sorted(found, key=lambda f: (f[1], f[0]))
        for head in range(n)
    ]
    return pd.DataFrame(
        rows,
        columns=["intervention", "prompt", "step", "token", "layer", "head", "kv_head", "attention", "other", "share"],
    )
