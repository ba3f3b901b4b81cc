"""What is left of a chunk that was erased from the cache: later slots have read it, and keep notes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd

from ..._util.progress import counted
from ...edits.banks import Bank
from ...edits.operators import Erase, Replace
from ...edits.spans import Chunk, Chunks, Slots
from ...edits.spans.spans import CachedPrompt
from ...generation.divergence import divergences
from ...generation.scoring import match_continuations
from ...interventions.base import Nothing
from ...interventions.chunks import WithoutChunk
from ...interventions.edits import CacheEdits
from ...models.model import Model
from ...models.prompts import Prompt, as_chat, as_list


def measure_erasure(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    chunks: Chunks,
    continuations: str | Sequence[str | Sequence[int]],
    *,
    which: Sequence[Sequence[int]] | None = None,
    offset: str | int = "\n",
    batch_size: int = 32,
    progress: bool = True,
) -> pd.DataFrame:
    """Erase a chunk from the cache and hold the model against one that never saw it.

    Two recomputations are the oracles: the chat without the chunk, where all that follows moves up, and the same tokens
    at the positions that they have, where the chunk leaves a gap. Against the second one an erased cache differs in one
    thing only: in what the slots behind the chunk took from it while they were computed (after KVEraser's residue).

    Args:
        model: from `kv.load`.
        prompts: chats with chunks.
        chunks: how they are found.
        continuations: one a prompt, along which next-token distributions are compared, as in `kv.divergence`.
        which: per prompt, the chunks that are erased; `None`: each.
        offset, batch_size: as in `kv.divergence`.
        progress: whether to show a bar.

    Returns:
        One row per prompt and chunk: `tokens` of the chunk, `behind`, the slots that follow it, and divergences in nats
        summed along the continuation: `whole`, KL(chunk there || chat without it), and `left`, KL(chunk erased || chat
        without it); then, because two things differ between an erased cache and the shorter chat, `notes`, KL(erased ||
        gap), and `moved`, KL(gap || chat without it).

    Raises:
        ValueError: not one continuation a prompt, chunks that aren't found, nothing behind a chunk, a model that counts
            positions itself, or what `kv.divergence` refuses.
        UnsteerableModelError: a model that computes attention in code of its own.

    Example:
        >>> import kvsteer_lab as kv
        >>> lines = kv.spans.Delimited("\\n", before="Why")
        >>> chat = "Snow is cold.\\nCoal is black.\\nWhy?"
        >>> table = kv.analysis.measure_erasure(kv.load("tiny"), chat, lines, " So", progress=False)
        >>> bool((table.notes > 0).all()), table.behind.is_monotonic_decreasing
        (True, True)
    """
    given, targets = match_continuations(model, prompts, continuations)
    erased = list(_each(model, given, chunks, which))
    rows = []
    with counted(len(erased), "measure_erasure", "chunk", progress) as done:
        for one in erased:
            gone = Erase(span=Chunk(chunks, one.number))
            recomputed = Replace(one.recomputed(model), span=Slots(*one.behind))
            gap, erase = CacheEdits([recomputed, gone], "gap"), CacheEdits(gone, "erased")
            asked = [one.prompt], [targets[one.row]]
            compare = partial(divergences, model, *asked, offset=offset, batch_size=batch_size)
            whole, left, moved = compare([Nothing(), erase, gap], WithoutChunk(chunks, one.number))
            (notes,) = compare([erase], gap)
            found = dict(whole=whole, left=left, notes=notes, moved=moved)
            sizes = dict(tokens=len(one.slots), behind=len(one.behind))
            totals = {name: kl.totals[0] for name, kl in found.items()}
            rows.append(dict(prompt=one.row, chunk=one.number, **sizes, **totals))
            done(1)
    return pd.DataFrame(rows)


def notes_of_chunks(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    chunks: Chunks,
    *,
    which: Sequence[Sequence[int]] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Where the slots behind a chunk keep notes of it: how far their keys and values are from what they are where the
    chunk was never read, positions kept.

    Args:
        model, prompts, chunks, which, progress: as in `measure_erasure`.

    Returns:
        One row per prompt, chunk and layer: `keys` and `values`, |cached - recomputed| / |recomputed| over all slots
        behind the chunk and all KV heads, and `last_keys` and `last_values`, the same of the prompt's last slot.
        Layer 0 has none: it sees single tokens.

    Raises:
        ValueError: as `measure_erasure`.

    Example:
        >>> import kvsteer_lab as kv
        >>> lines = kv.spans.Delimited("\\n", before="Why")
        >>> chat = "Snow is cold.\\nCoal is black.\\nWhy?"
        >>> table = kv.analysis.notes_of_chunks(kv.load("tiny"), chat, lines, progress=False)
        >>> bool(table[table.layer == 0]["values"].max() < 1e-5 < table[table.layer == 3]["values"].min())
        True
    """
    rows = []
    erased = list(_each(model, as_list(prompts), chunks, which))
    with counted(len(erased), "notes_of_chunks", "chunk", progress) as done:
        for one in erased:
            cached = Bank.of_tokens(model, one.ids, one.behind)
            recomputed = one.recomputed(model)
            for layer in range(model.n_layers):
                found = {}
                for part in ("keys", "values"):
                    now, then = (getattr(bank, part)[layer] for bank in (cached, recomputed))
                    found[part] = float((now - then).norm() / then.norm())
                    found[f"last_{part}"] = float((now - then)[:, -1].norm() / then[:, -1].norm())
                rows.append(dict(prompt=one.row, chunk=one.number, layer=layer, **found))
            done(1)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class _Erased:
    """One chunk of one prompt: `ids` of the whole prompt, the chunk's `slots`, and those `behind` it."""

    row: int
    prompt: Prompt
    number: int
    ids: tuple[int, ...]
    slots: tuple[int, ...]

    @property
    def behind(self) -> tuple[int, ...]:
        return tuple(range(self.slots[-1] + 1, len(self.ids)))

    def recomputed(self, model: Model) -> Bank:
        """What the slots behind the chunk hold where it was never read, at the positions that they have."""
        left = [slot for slot in range(len(self.ids)) if slot not in self.slots]
        at = [left.index(slot) for slot in self.behind]
        return Bank.of_tokens(model, [self.ids[slot] for slot in left], at, left)


def _each(
    model: Model, prompts: Sequence[Prompt], chunks: Chunks, which: Sequence[Sequence[int]] | None
) -> Iterator[_Erased]:
    if which is not None and len(which) != len(prompts):
        raise ValueError(f"There are {len(prompts)} prompts but chunks for {len(which)}; pass a list for each.")
    for row, prompt in enumerate(prompts):
        ids = tuple(model.encode(prompt))
        slots = chunks.find(CachedPrompt.of(model.tokenizer, ids, as_chat(prompt)))
        for number in range(len(slots)) if which is None else which[row]:
            one = _Erased(row, prompt, number, ids, slots[chunks.index(number, len(slots))])
            if not one.behind:
                raise ValueError(f"Nothing follows chunk {number} of prompt {row}, so nothing can have read it.")
            yield one
