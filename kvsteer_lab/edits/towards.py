"""Steering towards one of a prompt's chunks, by what its last slot has that the other chunks' last slots haven't."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .base import SlotEdit, Slotted
from .given import finite_number, whole_number
from .scaling import scale
from .spans import Chunks, Slots, find_slots
from .spans.chunks import check_chunks
from .spans.spans import CachedPrompt


@dataclass(frozen=True)
class TowardsChunk(SlotEdit):
    """v -> v + c (v_i - mean of v_j, j other than i): the values of chunk i's last slot, less the mean of the other
    chunks' last slots, added to the values of the span. Each prompt has a difference of its own, from its own cache:
    one steer a chunk, and no second prompt is read. Keys stay as they are.

    Args:
        chunks: how chunks are found; at least two in each prompt.
        number: i, counted from 0, negative ones from the last.
        factor: c.
        span, layers, heads, when: as in every operator; no span: the prompt's last slot. With
            `kv.spans.ChunkEnds(chunks, number)` the chunk's own last slot is made more unlike the others'.

    Raises:
        ValueError: `every`, for new tokens are no chunks, a number that isn't whole, or a factor that isn't finite.
            When it is used: chunks that aren't found, a single one, or chunks that a sliding-window layer has dropped.

    >>> lines = kv.spans.Delimited("\\n", before="Why?")
    >>> towards = kv.CacheEdits(kv.edits.TowardsChunk(lines, 1), coefficient=2)
    >>> prompt = "Snow is cold.\\nCoal is black.\\nWhy?"
    >>> towards.label, kv.divergence(kv.load("tiny"), prompt, " So", towards).totals[0] > 0
    ('towards chunk 1 c=2', True)
    """

    chunks: Chunks
    number: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every:
            raise ValueError("TowardsChunk takes no every=True: new tokens are no chunks; name a span.")
        object.__setattr__(self, "number", whole_number("The chunk's number", self.number))
        object.__setattr__(self, "factor", finite_number("The factor", self.factor))
        check_chunks(self.chunks)

    def resolve(self, prompt: CachedPrompt, row: int) -> tuple[SlotEdit, ...]:
        ends = [slots[-1] for slots in self.chunks.find(prompt)]
        if len(ends) < 2:
            raise ValueError(f"Prompt {row} has one chunk only; there must be others to tell it from.")
        own = ends.pop(self.chunks.index(self.number, len(ends)))
        targets = find_slots(self.span or Slots(-1), prompt, row).numbers
        slots = sorted({own, *ends, *targets})
        resolved = _Resolved(
            own=slots.index(own),
            others=tuple(map(slots.index, ends)),
            moved=tuple(map(slots.index, targets)),
            factor=self.factor,
            span=Slots(*slots),
            layers=self.layers,
            heads=self.heads,
            when=self.when,
        )
        return (resolved,)

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        raise TypeError("Where the chunks are must be looked up in a prompt first; see resolve.")


@dataclass(frozen=True)
class _Resolved(SlotEdit):
    """`TowardsChunk` in one row: its span holds the slots that are read and those that are moved; `own`, `others` and
    `moved` say which of them is which.
    """

    own: int
    others: tuple[int, ...]
    moved: tuple[int, ...]
    factor: float

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        if values.shape[1] <= max(self.own, *self.others, *self.moved):
            raise ValueError(
                f"Some chunks lie outside layer {layer}'s sliding window; leave that layer out (layers=...) or shorten"
                " the prompt."
            )
        difference = values[:, self.own] - values[:, list(self.others)].mean(1)
        new = values.clone()
        new[:, list(self.moved)] += self.factor * difference[:, None]
        return keys, new


@scale.register
def _(edit: TowardsChunk, factor: float) -> TowardsChunk:
    return replace(edit, factor=factor * edit.factor)
