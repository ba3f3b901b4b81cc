"""Attribution of a steering's effect to heads: the change of each head's output, split exactly into what the head reads
at the slot, how it weighs the slots, and what reaches it through other tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..._util.batching import in_batches
from ..._util.progress import counted
from ...edits.slots import slot_from_end
from ...generation.rows import group_rows
from ...generation.scoring import logits_along
from ...interventions.cache import CacheSteering
from ...models.attention import Attention, Watching, query_heads
from ...models.finite import check_logits
from ...models.heads import head_matrices, output_projections
from ...models.lock import locked
from ...models.model import Model
from ...models.prompts import Prompt, as_list
from ...vectors.indices import check_indices
from ..budget import rows_within
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
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    controls: int = 0,
    seed: int = 0,
    chat: bool = True,
    offset: str | int = "\n",
    batch_size: int = 64,
    progress: bool = True,
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
        layers, heads: which layers and query heads the table is about, `range(0, 30, 5)` say; `None`: all. The steering
            itself stays whole.
        controls: random vectors of the same norms, each reading the same text as the steering; 0: none.
        seed: of the random vectors.
        chat, offset: as in `kv.generate`.
        batch_size: rows read together at most, a plain one and its steered ones for each prompt; fewer where their
            caches would exceed 1 GiB.
        progress: whether to show a bar.

    Returns:
        One row per intervention (the steering, its controls), prompt, step, layer and query head: `control_of`,
        `kv_head`, `plain` and `steered` (attention to the slot), `change` (the length of what the head writes
        differently) and its parts `value`, `reweighting`, `indirect`; `logit` and its parts `logit_value`,
        `logit_reweighting`, `logit_indirect`.

    Raises:
        ValueError: a single prompt, no steps, a steering that adds nothing, or what `kv.generate` refuses; before
            anything is computed. Logits that are NaN or infinite.
        KeyboardInterrupt: it was interrupted.
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
    looked = check_indices("layer", layers, model.n_layers)
    of_heads = check_indices("query head", heads, query_heads(model.hf))
    how: dict[str, Any] = dict(chat=chat, offset=offset, batch_size=batch_size)
    rows = follow(model, given, steering, continuations, steps, steering.slot, **how)
    drawn = steering.controls(controls, seed)
    if drawn:
        rows += follow(model, given, drawn, [each.target for each in rows], steps, steering.slot, **how)
    methods = 1 + len(drawn)
    most = rows_within(model, [each.row for each in rows], steps, batch_size) - 1  # beside the plain row
    found: list[pd.DataFrame] = []
    with counted(len(rows), "attribute_heads", "row", progress) as done:
        for group in group_rows(model, [each.row for each in rows[: len(given)]]):
            for start in range(0, methods, max(1, most)):
                some = range(start, min(methods, start + max(1, most)))
                for batch, part in in_batches(
                    group,
                    max(1, (most + 1) // (1 + len(some))),
                    lambda b, some=some: _compare(  # type: ignore[misc]
                        model, [[rows[m * len(given) + p] for m in some] for p in b], steering.slot, looked, of_heads
                    ),
                ):
                    found.append(part)
                    done(len(batch) * len(some))
    order = {label: m for m, label in enumerate(dict.fromkeys(each.intervention for each in rows))}
    table = pd.concat(found)
    table = table.assign(_order=table.intervention.map(order)).sort_values(
        ["_order", "prompt", "step", "layer", "head"], kind="stable", ignore_index=True
    )
    controlled = {label: None if m == 0 else steering.label for label, m in order.items()}
    table["control_of"] = pd.Series([controlled[label] for label in table.intervention], dtype=object)
    first = ["intervention", "control_of", "prompt", "step", "layer", "head", "kv_head"]
    return table[[*first, *(c for c in table.columns if c not in (*first, "_order"))]]


@dataclass
class _Change:
    """Of one layer in one forward pass: the parts of the change of the steered rows, and the attention to the slot,
    plain and steered.
    """

    layer: int
    column: int
    parts: Float[Tensor, "parts prompts methods heads queries head_dim"] = field(repr=False)
    looks: Float[Tensor, "2 prompts methods heads queries"] = field(repr=False)


@locked
@torch.no_grad()
def _compare(
    model: Model,
    rows: Sequence[Sequence[FollowedText]],
    slot: int,
    layers: Sequence[int],
    heads: Sequence[int],
) -> pd.DataFrame:
    """Each prompt under some methods, that read one text, beside its plain row."""
    first = [each[0] for each in rows]
    methods = len(rows[0])
    width = max(len(each.row.cached) for each in first)
    tail = max(len(each.row.read) for each in first)
    slots = torch.tensor([width - slot_from_end(slot, len(each.row.cached), i) for i, each in enumerate(first)])
    batch = [row for each in rows for row in (replace(each[0].row, deltas=()), *(one.row for one in each))]
    targets = [each.target for each in first for _ in range(1 + methods)]
    changes: list[_Change] = []

    def look(attention: Attention) -> None:
        if attention.layer in layers:
            changes.append(_split(attention, width, slots, heads))

    residuals = LastResiduals(model.hf)
    with residuals, Watching(model.hf, width, look):
        for logits, _ in logits_along(model, batch, targets):
            check_logits(logits)
    ends = [width + tail - len(each.row.read) + len(each.read) for each in first]
    said = [[*each.read[1:], each.target[-1]] for each in first]
    hidden = [
        residuals.stream[i * (1 + methods) + 1 + m, end - width - len(s) : end - width]
        for i, (end, s) in enumerate(zip(ends, said, strict=True))
        for m in range(methods)
    ]
    directions = (
        logit_directions(model.hf, torch.cat(hidden), [token for s in said for _ in range(methods) for token in s])
        .cpu()
        .split([len(s) for s in said for _ in range(methods)])
    )
    steps = torch.stack(
        [
            torch.nn.functional.pad(d, (0, 0, end - width - len(d), max(ends) - end))
            for d, end in zip(directions, (end for end in ends for _ in range(methods)), strict=True)
        ]
    ).unflatten(0, (len(rows), methods))
    return pd.concat([_rows(model, rows, change, width, ends, steps, heads) for change in changes])


def _split(attention: Attention, width: int, slots: Tensor, heads: Sequence[int]) -> _Change:
    """The parts of the change between each prompt's plain row, which comes first, and its steered ones."""
    edge = max(0, attention.slot_of(width))
    group = len(attention.query) // len(slots)

    def plain(each: Tensor) -> Tensor:
        """Of each row, what its prompt's plain row has."""
        return each[::group].repeat_interleave(group, 0)

    def edited(each: Tensor) -> Tensor:
        """The cached prompt as it is, which differs by the edit alone, and the plain row's later slots."""
        return torch.cat([each[:, :, :edge], plain(each[:, :, edge:])], 2)

    def steered(each: Tensor) -> Tensor:
        return each.unflatten(0, (len(slots), group))[:, 1:]

    query, keys = plain(attention.query), edited(attention.keys)
    reweighted, _ = attention.attend(query, keys, plain(attention.values))
    read, _ = attention.attend(query, keys, edited(attention.values))
    before = plain(attention.outputs)
    parts = torch.stack([steered(read - reweighted), steered(reweighted - before), steered(attention.outputs - read)])
    at = slots.to(attention.weights.device).repeat_interleave(group) + attention.slot_of(0)
    index = at.clamp(min=0)[:, None, None, None].expand(-1, *attention.weights.shape[1:3], 1)
    looks = attention.weights.gather(-1, index)[..., 0] * (at >= 0)[:, None, None]
    both = torch.stack([steered(plain(looks)), steered(looks)])
    return _Change(
        attention.layer, attention.column, parts[:, :, :, heads].float().cpu(), both[:, :, :, heads].float().cpu()
    )


def _rows(
    model: Model,
    rows: Sequence[Sequence[FollowedText]],
    change: _Change,
    width: int,
    ends: Sequence[int],
    directions: Float[Tensor, "prompts methods columns hidden"],
    heads: Sequence[int],
) -> pd.DataFrame:
    """One row per prompt, method, head and query of this pass that belongs to the text; `directions` are those of the
    columns after the cache.
    """
    n = change.parts.shape[4]
    begin = change.column - width
    at = torch.nn.functional.pad(directions, (0, 0, 0, max(0, begin + n - directions.shape[2])))
    at = at[:, :, begin : begin + n].double()
    matrices = head_matrices(model.hf, change.layer)[list(heads)]
    per_kv_head = query_heads(model.hf) // model.n_kv_heads
    tables = []
    for i, each in enumerate(rows):
        steps = [change.column + q - (ends[i] - len(each[0].read)) for q in range(n)]
        inside = [q for q, step in enumerate(steps) if 0 <= step < len(each[0].read)]
        if not inside:
            continue
        # parts, methods, heads, queries, hidden
        written = torch.einsum("pmhqd,hde->pmhqe", change.parts[:, i, :, :, inside], matrices).double()
        total = written.sum(0)
        length = total.norm(dim=-1)
        along = (written * (total / length.clamp(min=1e-30)[..., None])).sum(-1)
        logit = torch.einsum("pmhqe,mqe->pmhq", written, at[i][:, inside])
        shape = length.shape  # methods, heads, queries
        named: dict[str, Any] = dict(
            intervention=np.repeat([one.intervention for one in each], shape[1] * shape[2]),
            prompt=each[0].prompt,
            step=np.tile([steps[q] for q in inside], shape[0] * shape[1]),
            layer=change.layer,
            head=np.tile(np.repeat(heads, shape[2]), shape[0]),
            kv_head=np.tile(np.repeat([head // per_kv_head for head in heads], shape[2]), shape[0]),
            plain=change.looks[0, i][:, :, inside],
            steered=change.looks[1, i][:, :, inside],
            change=length,
        )
        named |= dict(zip(CHANGES, along, strict=True)) | dict(logit=logit.sum(0))
        named |= {f"logit_{part}": values for part, values in zip(CHANGES, logit, strict=True)}
        columns = {
            name: values.double().flatten().numpy() if isinstance(values, Tensor) else values
            for name, values in named.items()
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables) if tables else pd.DataFrame()
