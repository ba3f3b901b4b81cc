"""Attention to the chunks of a prompt while the answer is written, before and after something is done to the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..._util.batching import in_batches
from ..._util.progress import counted
from ...edits.spans import Chunks
from ...edits.spans.spans import CachedPrompt
from ...generation.asking import asked_under
from ...generation.rows import group_rows
from ...generation.scoring import logits_along
from ...interventions.base import Intervention
from ...interventions.checks import check_interventions
from ...models.attention import Attention, Watching
from ...models.finite import check_logits
from ...models.lock import locked
from ...models.model import Model
from ...models.prompts import Prompt, as_list
from ..budget import rows_within
from ..reading.followed_text import Continuations, FollowedText, follow

ELSEWHERE, AFTER = "elsewhere in the prompt", "after the prompt"


def attention_to_chunks(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    chunks: Chunks,
    interventions: Intervention | Sequence[Intervention] | None = None,
    continuations: Continuations = None,
    *,
    steps: int = 8,
    offset: str | int = "\n",
    batch_size: int = 64,
    progress: bool = True,
) -> pd.DataFrame:
    """How attention is shared out among a prompt's chunks while the answer is written: under the baseline and under
    what is done to the cache, side by side. A weight says where a head looks, not what effect this has.

    Args:
        model: from `kv.load`.
        prompts: chats with chunks.
        chunks: how they are found, in the chat that each intervention asks.
        interventions: what to compare, `[kv.Nothing(), steering]` say; `None`: the baseline.
        continuations: as in `kv.analysis.attention_to_slot`; give the same text to all interventions to compare them at
            the same words.
        steps: how many; step 0 is the offset token, step t reads the t-th token of the answer.
        offset, batch_size, progress: as in `kv.analysis.attention_to_slot`.

    Returns:
        One row per intervention, prompt, step, layer and part: `part` is `"chunk 0"` and so on, `"elsewhere in the
        prompt"` (where the first slot is, which many heads rest on) or `"after the prompt"`; `tokens`, the part's
        slots; `token`, what is read; `share`, the attention on the part, averaged over the query heads. The shares of a
        step and layer sum to 1, or to less where the model has attention sinks.

    Raises:
        ValueError: chunks that aren't found, or as `kv.analysis.attention_to_slot`.
        UnsteerableModelError: a model that computes attention in code of its own.

    Example:
        >>> import kvsteer_lab as kv
        >>> lines = kv.spans.Delimited("\\n", before="Why")
        >>> chat = "Snow is cold.\\nCoal is black.\\nWhy?"
        >>> table = kv.analysis.attention_to_chunks(kv.load("tiny"), chat, lines, steps=2, progress=False)
        >>> table.groupby(["step", "layer"]).share.sum().round(4).unique().tolist()
        [1.0]
    """
    given = as_list(prompts)
    rows = follow(
        model, given, interventions, continuations, steps, -1, chat=True, offset=offset, batch_size=batch_size
    )
    chats = {m.label: [asked_under(m, p, chat=True) for p in given] for m in check_interventions(model, interventions)}
    parted = [_parted(model, each, chats[each.intervention][each.prompt], chunks) for each in rows]
    fit = rows_within(model, [each.row for each in rows], steps, batch_size)
    tables: dict[int, pd.DataFrame] = {}
    with counted(len(rows), "attention_to_chunks", "row", progress) as done:
        for group in group_rows(model, [each.row for each in rows]):
            for batch, found in in_batches(group, fit, lambda batch: _look(model, [parted[i] for i in batch], steps)):
                tables.update(zip(batch, found, strict=True))
                done(len(batch))
    return pd.concat([tables[i] for i in range(len(rows))], ignore_index=True)


@dataclass(frozen=True)
class _Parted:
    """A row with the part that each of its cached slots belongs to: its chunk's number, or the number of chunks."""

    text: FollowedText
    of_slot: tuple[int, ...]
    chunks: int

    @property
    def names(self) -> list[str]:
        return [*(f"chunk {i}" for i in range(self.chunks)), ELSEWHERE, AFTER]


def _parted(model: Model, text: FollowedText, chat: Prompt, chunks: Chunks) -> _Parted:
    slots = chunks.find(CachedPrompt.of(model.tokenizer, text.row.cached, chat))
    of_slot = [len(slots)] * len(text.row.cached)
    for number, own in enumerate(slots):
        for slot in own:
            of_slot[slot] = number
    return _Parted(text, tuple(of_slot), len(slots))


@locked
@torch.no_grad()
def _look(model: Model, rows: Sequence[_Parted], steps: int) -> list[pd.DataFrame]:
    """A table of each row, from one reading of all of them."""
    texts = [each.text for each in rows]
    width = max(each.row.inserted + len(each.row.cached) for each in texts)
    tail = max(len(each.row.read) for each in texts)
    origin = torch.tensor([width + tail - len(each.row.read) for each in texts])
    lengths = torch.tensor([min(steps, len(each.read)) for each in texts])
    parts = max(each.chunks for each in rows) + 2
    seen = torch.zeros(len(rows), int(lengths.max()), model.n_layers, parts)

    def look(attention: Attention) -> None:
        slots = attention.weights.shape[-1]
        columns = torch.arange(slots) - attention.slot_of(0)
        which = torch.stack([_parts_of(columns, width, each, parts) for each in rows])
        shares = _sums(attention.weights.cpu(), which, parts)
        step = attention.column + torch.arange(shares.shape[1]) - origin[:, None]
        row, query = torch.nonzero((step >= 0) & (step < lengths[:, None]), as_tuple=True)
        seen[row, step[row, query], attention.layer] = shares[row, query]

    with Watching(model.hf, width, look):
        for logits, _ in logits_along(model, [each.row for each in texts], [each.target for each in texts]):
            check_logits(logits)
    return [
        _table(model, each, found[:length], parts)
        for each, found, length in zip(rows, seen, lengths.tolist(), strict=True)
    ]


def _parts_of(columns: Tensor, width: int, row: _Parted, parts: int) -> Tensor:
    """The part that each of a layer's slots belongs to; the last but one is elsewhere, the last what comes after."""
    own = [parts - 2 if part == row.chunks else part for part in row.of_slot]
    before = torch.tensor([*[parts - 2] * (width - len(own)), *own])
    return torch.where(columns < width, before[columns.clamp(max=width - 1)], parts - 1)


def _sums(
    weights: Float[Tensor, "rows heads time slots"], which: Tensor, parts: int
) -> Float[Tensor, "rows time parts"]:
    """Weights of each part, averaged over the heads."""
    of_part = torch.nn.functional.one_hot(which, parts).double()
    return (weights.double().mean(1) @ of_part).float()


def _table(model: Model, row: _Parted, found: Float[Tensor, "steps layers parts"], parts: int) -> pd.DataFrame:
    kept = [*range(row.chunks), parts - 2, parts - 1]
    sizes = [row.of_slot.count(part) for part in range(row.chunks + 1)]
    rows = [
        (step, model.tokenizer.decode([row.text.read[step]]), layer, name, size, float(found[step, layer, part]))
        for step in range(found.shape[0])
        for layer in range(found.shape[1])
        for name, size, part in zip(row.names, [*sizes, step + 1], kept, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["step", "token", "layer", "part", "tokens", "share"])
    table.insert(0, "intervention", row.text.intervention)
    table.insert(1, "prompt", row.text.prompt)
    return table
