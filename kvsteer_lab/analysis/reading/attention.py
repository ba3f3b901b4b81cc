"""Attention to one slot of the prompt, by layer, query head and decode step: which heads look at the steered slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..._util.batching import in_batches
from ..._util.progress import counted
from ...edits.slots import slot_from_end
from ...generation.rows import group_rows
from ...generation.scoring import logits_along
from ...interventions.base import Intervention
from ...interventions.checks import check_interventions
from ...models.attention import Attention, Watching, query_heads
from ...models.finite import check_logits
from ...models.lock import locked
from ...models.model import Model
from ...models.prompts import Prompt
from ...vectors.indices import check_indices
from ..budget import rows_within
from .followed_text import Continuations, FollowedText, follow


def attention_to_slot(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    interventions: Intervention | Sequence[Intervention] | None = None,
    continuations: Continuations = None,
    *,
    steps: int = 8,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    slot: int = -1,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 64,
    progress: bool = True,
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
        layers, heads: which layers and query heads are looked at, `range(0, 30, 5)` say; `None`: all.
        slot: which slot of the prompt; negative counts from its end.
        chat, offset: as in `kv.generate`.
        batch_size: rows read together at most; fewer where their caches would exceed 1 GiB.
        progress: whether to show a bar.

    Returns:
        One row per intervention, prompt, step, layer and query head: `control_of` (for a control, what it controls),
        `kv_head`, `token` (what is read at
        that step), `attention`, `other` (the mean weight on the prompt's other slots, as far as the token can read
        them) and `share`, the share of the prompt's slots that get as much as this one or more: 1 / slots where none
        gets more. Texts that end earlier have fewer steps.

    Raises:
        ValueError: no prompts or steps, a slot that isn't there, a steering that adds nothing, or what `kv.generate`
            refuses; before anything is computed. Logits that are NaN or infinite.
        KeyboardInterrupt: it was interrupted.
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
    chosen = _Heads(
        check_indices("layer", layers, model.n_layers),
        check_indices("query head", heads, query_heads(model.hf)),
        query_heads(model.hf) // model.n_kv_heads,
    )
    rows = follow(
        model, prompts, interventions, continuations, steps, slot, chat=chat, offset=offset, batch_size=batch_size
    )
    fit = rows_within(model, [each.row for each in rows], steps, batch_size)
    tables: dict[int, pd.DataFrame] = {}
    with counted(len(rows), "attention_to_slot", "row", progress) as done:
        for group in group_rows(model, [each.row for each in rows]):
            for batch, found in in_batches(
                group, fit, lambda batch: _look(model, [rows[i] for i in batch], steps, slot, chosen)
            ):
                tables.update(zip(batch, found, strict=True))
                done(len(batch))
    table = pd.concat([tables[i] for i in range(len(rows))], ignore_index=True)
    controlled = {method.label: method.control_of for method in check_interventions(model, interventions)}
    table.insert(1, "control_of", pd.Series([controlled[label] for label in table.intervention], dtype=object))
    return table


@dataclass(frozen=True)
class _Heads:
    """The layers and query heads that are looked at, and how many of the latter read one KV head."""

    layers: Sequence[int]
    heads: Sequence[int]
    group: int


@locked
@torch.no_grad()
def _look(model: Model, rows: Sequence[FollowedText], steps: int, slot: int, chosen: _Heads) -> list[pd.DataFrame]:
    """A table of each row, from one reading of all of them."""
    width = max(len(each.row.cached) for each in rows)
    tail = max(len(each.row.read) for each in rows)
    origin = torch.tensor([width + tail - len(each.row.read) for each in rows])
    lengths = torch.tensor([min(steps, len(each.read)) for each in rows])
    first = torch.tensor([width - len(each.row.cached) for each in rows])
    slots = torch.tensor([width - slot_from_end(slot, len(each.row.cached), i) for i, each in enumerate(rows)])
    seen = torch.full((len(rows), int(lengths.max()), len(chosen.layers), len(chosen.heads), 3), float("nan"))

    def look(attention: Attention) -> None:
        if attention.layer not in chosen.layers:
            return
        begin = attention.slot_of(0)
        low, high = max(0, int(first.min()) + begin), max(0, width + begin)
        within = torch.arange(low, high)
        prompt = within >= (first + begin)[:, None]
        weights = attention.weights[:, list(chosen.heads), :, low:high].cpu()
        readable = attention.readable[..., low:high].any(1).cpu() & prompt[:, None]
        values = _of_slot(weights, readable, slots + begin - low)
        step = attention.column + torch.arange(weights.shape[2]) - origin[:, None]
        row, query = torch.nonzero((step >= 0) & (step < lengths[:, None]), as_tuple=True)
        seen[row, step[row, query], chosen.layers.index(attention.layer)] = values[row, :, query]

    with Watching(model.hf, width, look):
        for logits, _ in logits_along(model, [each.row for each in rows], [each.target for each in rows]):
            check_logits(logits)
    return [
        _table(model, each, chosen, found[:length])
        for each, found, length in zip(rows, seen.numpy(), lengths.tolist(), strict=True)
    ]


def _of_slot(
    weights: Float[Tensor, "rows heads queries slots"],
    readable: Bool[Tensor, "rows queries slots"],
    at: Int[Tensor, " rows"],
) -> Float[Tensor, "rows heads queries 3"]:
    """The weight on the slot, the mean on the prompt's others, and the share of slots that get as much or more. Where a
    window has moved past the slot, the weight is 0 and the others are missing.
    """
    weights, seen = weights.double(), readable[:, None].expand_as(weights)
    there = (at >= 0)[:, None, None] & seen.any(-1)
    index = at.clamp(min=0)[:, None, None, None].expand(*weights.shape[:3], 1)
    if weights.shape[-1] == 0:
        own = weights.new_zeros(weights.shape[:3])
    else:
        own = weights.gather(-1, index)[..., 0]
    rest = seen & (torch.arange(weights.shape[-1]) != at[:, None, None, None])
    other = (weights * rest).sum(-1) / rest.sum(-1)  # of no others: 0 / 0, missing
    share = ((weights >= own[..., None]) & seen).sum(-1) / seen.sum(-1)
    missing = torch.full_like(own, float("nan"))
    parts = (torch.where(there, own, 0.0), torch.where(there, other, missing), torch.where(there, share, missing))
    return torch.stack(parts, -1).float()


def _table(
    model: Model, each: FollowedText, chosen: _Heads, found: Float[np.ndarray, "steps layers heads 3"]
) -> pd.DataFrame:
    steps, layers, heads = found.shape[:3]
    tokens = [model.tokenizer.decode([token]) for token in each.read[:steps]]
    values = found.reshape(-1, 3).astype(float)
    return pd.DataFrame(
        dict(
            intervention=each.intervention,
            prompt=each.prompt,
            step=np.repeat(np.arange(steps), layers * heads),
            token=np.repeat(np.array(tokens, dtype=object), layers * heads),
            layer=np.tile(np.repeat(chosen.layers, heads), steps),
            head=np.tile(chosen.heads, steps * layers),
            kv_head=np.tile([head // chosen.group for head in chosen.heads], steps * layers),
            attention=values[:, 0],
            other=values[:, 1],
            share=values[:, 2],
        )
    )
