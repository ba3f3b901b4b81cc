"""Attribution of a steering's effect to heads: the change of each head's output, split exactly into what the head reads
at the slot, how it weighs the slots, and what reaches it through other tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..._util.batching import in_batches
from ...edits.cache import slot_from_end
from ...generation.rows import group_rows
from ...generation.scoring import logits_along
from ...interventions.cache import CacheSteering
from ...models.attention import Attention, Watching, query_heads
from ...models.finite import check_logits
from ...models.heads import head_writes, output_projections
from ...models.lock import locked
from ...models.model import Model
from ...models.prompts import Prompt, as_list
from ..checks import check_steering
from .followed_text import Continuations, FollowedText, follow
from .logits import LastResiduals, logit_directions

CHANGES = ("value", "reweighting", "indirect")


def attribute_heads(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    steering: CacheSteering,
    continuations: Continuations = None,
    *,
    steps: int = 1,
    controls: int = 0,
    seed: int = 0,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 32,
) -> pd.DataFrame:
    """Split the change of every head's output, steered minus plain, into three parts that add up to it.

    With a_j and a'_j the weights of a head with its plain query and keys, and with its plain query and the edited
    slot's key k_s + c_k S^K:

        value        a'_s c_v S^V W_O                  what the head reads at the slot that wasn't there before
        reweighting  sum over j of (a'_j - a_j) v_j W_O   what it reads more or less of, as the slot's key has changed
        indirect     the rest: its query and the answer's own slots have changed, because lower layers or earlier tokens
                     had read the edit

    Both runs read the same text. Steer one single layer, and there is nothing indirect in it. The parts are vectors in
    the residual stream; the table holds two views of each that add up: along the whole change, in units of the stream;
    and along the gradient, in the steered run, of the logit (less the mean logit) of the token that is said next with
    respect to what leaves the last layer: its direct effect on that logit, to first order. Direct means straight to the
    unembedding: what later layers make of it isn't counted, and neither are norms or factors after the attention.

    Args:
        model: from `kv.load`.
        prompts: as in `kv.generate`.
        steering: what is added to the cache.
        continuations: texts or token ids, one a prompt; `None`: what the steered model says, greedily.
        steps: how many; step 0 is the offset token.
        controls: random vectors of the same norms, each reading the same text as the steering; 0: none.
        seed: of the random vectors.
        chat, offset: as in `kv.generate`.
        batch_size: rows read together; halved where memory runs out.

    Returns:
        One row per intervention (the steering, its controls), prompt, step, layer and query head: `control_of`,
        `kv_head`, `plain` and `steered` (attention to the slot), `change` (the length of what the head writes
        differently) and its parts `value`, `reweighting`, `indirect`; `logit` and its parts `logit_value`,
        `logit_reweighting`, `logit_indirect`.

    Raises:
        ValueError: a single prompt, no steps, a steering that adds nothing, or what `kv.generate` refuses; before
            anything is computed. Logits that are NaN or infinite.
        UnsteerableModelError: attention in code of its own, or heads that no plain projection takes.

    Example:
        >>> import kvsteer_lab as kv
        >>> model, task = kv.load("tiny"), kv.tasks.get("tiny-arithmetic")
        >>> pairs = kv.ContrastiveSet.few_shot(task, model.tokenizer, style="stepwise", n=4, shots=1)
        >>> steering = kv.CacheSteering(kv.extract(model, pairs, progress=False), ck=0, cv=6)
        >>> prompts = [task.chat(q) for q in task.questions("dev", 2)]
        >>> table = kv.analysis.attribute_heads(model, prompts, steering)
        >>> parts = table[["value", "reweighting", "indirect"]].sum(axis=1)
        >>> bool(((parts - table.change).abs() < 1e-4).all())  # the three parts add up to the whole change
        True
    """
    given = as_list(prompts)
    check_steering(model, steering, given)
    output_projections(model.hf)
    how: dict[str, Any] = dict(chat=chat, offset=offset, batch_size=batch_size)
    own = follow(model, given, steering, continuations, steps, steering.slot, **how)
    texts = [each.target for each in own]
    tables = [_attribute(model, own, steering, batch_size)]
    for control in steering.controls(controls, seed):
        rows = follow(model, given, control, texts, steps, steering.slot, **how)
        tables.append(_attribute(model, rows, control, batch_size))
    table = pd.concat(
        [t.assign(control_of=None if i == 0 else steering.label) for i, t in enumerate(tables)], ignore_index=True
    )
    first = ["intervention", "control_of", "prompt", "step", "layer", "head", "kv_head"]
    return table[[*first, *(c for c in table.columns if c not in first)]]


def _attribute(model: Model, rows: Sequence[FollowedText], steering: CacheSteering, batch_size: int) -> pd.DataFrame:
    found: list[pd.DataFrame] = []
    for group in group_rows(model, [each.row for each in rows]):
        for _, part in in_batches(
            group, max(1, batch_size // 2), lambda batch: _compare(model, [rows[i] for i in batch], steering.slot)
        ):
            found.append(part)
    table = pd.concat(found)
    return table.sort_values(["prompt", "step", "layer", "head"], kind="stable")


@dataclass
class _Change:
    """Of one layer in one forward pass: `[3 parts, prompts, heads, queries, head_dim]`, and the attention to the slot,
    plain and steered.
    """

    layer: int
    column: int
    parts: Float[Tensor, "parts prompts heads queries head_dim"] = field(repr=False)
    looks: Float[Tensor, "2 prompts heads queries"] = field(repr=False)


@locked
@torch.no_grad()
def _compare(model: Model, rows: Sequence[FollowedText], slot: int) -> pd.DataFrame:
    width = max(len(each.row.cached) for each in rows)
    tail = max(len(each.row.read) for each in rows)
    slots = torch.tensor([width - slot_from_end(slot, len(each.row.cached), i) for i, each in enumerate(rows)])
    pairs = [row for each in rows for row in (replace(each.row, deltas=()), each.row)]
    targets = [each.target for each in rows for _ in range(2)]
    changes: list[_Change] = []
    residuals = LastResiduals(model.hf)
    with residuals, Watching(model.hf, width, lambda attention: changes.append(_split(attention, width, slots))):
        for logits, _ in logits_along(model, pairs, targets):
            check_logits(logits)
    ends = [width + tail - len(each.row.read) + len(each.read) for each in rows]
    said = [[*each.read[1:], each.target[-1]] for each in rows]
    hidden = [
        residuals.stream[2 * i + 1, end - width - len(s) : end - width]
        for i, (end, s) in enumerate(zip(ends, said, strict=True))
    ]
    directions = (
        logit_directions(model.hf, torch.cat(hidden), [token for s in said for token in s])
        .cpu()
        .split([len(s) for s in said])
    )
    steps = torch.stack(
        [
            torch.nn.functional.pad(d, (0, 0, end - width - len(d), max(ends) - end))
            for d, end in zip(directions, ends, strict=True)
        ]
    )
    found = [_rows(model, rows, change, width, ends, steps) for change in changes]
    return pd.concat(found)


def _split(attention: Attention, width: int, slots: Tensor) -> _Change:
    """The parts of the change between rows in pairs, the plain one first."""
    edge = max(0, attention.slot_of(width))
    query, outputs = attention.query.clone(), attention.outputs
    query[1::2] = query[0::2]
    keys, values = attention.keys.clone(), attention.values.clone()
    keys[0::2, :, :edge] = keys[1::2, :, :edge]  # the cached prompt differs by the edit alone
    keys[1::2, :, edge:] = keys[0::2, :, edge:]
    values[1::2, :, edge:] = values[0::2, :, edge:]
    # plain rows: keys edited; steered rows: keys and values edited, all else plain
    edited, _ = attention.attend(query, keys, values)
    parts = torch.stack([edited[1::2] - edited[0::2], edited[0::2] - outputs[0::2], outputs[1::2] - edited[1::2]])
    at = slots.to(attention.weights.device) + attention.slot_of(0)
    index = at.clamp(min=0)[:, None, None, None].expand(-1, *attention.weights.shape[1:3], 1)
    looks = torch.stack(
        [attention.weights[side::2].gather(-1, index)[..., 0] * (at >= 0)[:, None, None] for side in (0, 1)]
    )
    return _Change(attention.layer, attention.column, parts.float().cpu(), looks.float().cpu())


def _rows(
    model: Model,
    rows: Sequence[FollowedText],
    change: _Change,
    width: int,
    ends: Sequence[int],
    directions: Float[Tensor, "prompts columns hidden"],
) -> pd.DataFrame:
    """One row per prompt, head and query of this pass that belongs to the text; `directions` are those of the columns
    after the cache.
    """
    heads = query_heads(model.hf)
    n = change.parts.shape[3]
    begin = change.column - width
    at = torch.nn.functional.pad(directions, (0, 0, 0, max(0, begin + n - directions.shape[1])))[
        :, begin : begin + n
    ].double()
    table = []
    for head in range(heads):
        # parts, prompts, queries, hidden
        written = head_writes(model.hf, change.layer, head, change.parts[:, :, head]).double()
        total = written.sum(0)
        length = total.norm(dim=-1)
        along = (written * (total / length.clamp(min=1e-30)[..., None])).sum(-1)
        logit = (written * at).sum(-1)
        for i, each in enumerate(rows):
            where = (change.layer, head, head // (heads // model.n_kv_heads))
            for q in range(n):
                step = change.column + q - (ends[i] - len(each.read))
                if 0 <= step < len(each.read):
                    looks = (float(change.looks[0, i, head, q]), float(change.looks[1, i, head, q]))
                    parts = (
                        float(length[i, q]),
                        *along[:, i, q].tolist(),
                        float(logit[:, i, q].sum()),
                        *logit[:, i, q].tolist(),
                    )
                    table.append((each.intervention, each.prompt, step, *where, *looks, *parts))
    names = ["intervention", "prompt", "step", "layer", "head", "kv_head", "plain", "steered"]
    return pd.DataFrame(table, columns=[*names, "change", *CHANGES, "logit", *(f"logit_{part}" for part in CHANGES)])
