"""Editing: while the plain model reads on from a filled cache, it steers rows and hides slots from them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ..edits.hiding import Hiding, PlacedSlot
from ..edits.lasting import Lasting
from ..edits.residual import Editing, Placed, layer_edits
from ..edits.slots import slot_from_end
from ..models.model import Model
from .rows import Row


@dataclass(frozen=True)
class Columns:
    """Where rows stand in a batch.

    Attributes:
        start: the first column that is read next: how many the cache has.
        prompts: per row, the column behind its cached prompt.
        tails: per row, the column behind its tail, where its new tokens begin.
        banks: per row, the column of its bank's first slot.
    """

    start: int
    prompts: tuple[int, ...]
    tails: tuple[int, ...]
    banks: tuple[int, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Columns:
        """As `fill_rows` puts them."""
        start = max(row.inserted for row in rows) + max(len(row.cached) for row in rows)
        end = start + max(len(row.read) for row in rows)
        return cls(start, (start,) * len(rows), (end,) * len(rows), (0,) * len(rows))


def editing(
    model: Model, rows: Sequence[Row], columns: Columns | None = None, *, cached: bool = True
) -> AbstractContextManager[object]:
    """The context in which the plain model reads on from the cache that `fill_rows` made of the same rows: it edits
    their residual stream and what they cache, and hides slots.

    It may span several forward passes, or be entered once for each; the passes must follow one another in the order of
    the text. With `cached=False` the rows are left-padded as a whole, prompt and tail, and each pass reads them from
    the start.

    Args:
        model: the model that runs.
        rows: what it reads.
        columns: where the rows stand; `None`: where `fill_rows` has put them.
        cached: whether a cache is read.
    """
    if columns is None and cached:
        columns = Columns.of(rows)
    elif columns is None:
        end = max(len(row.prompt_ids) + len(row.tail) for row in rows)
        columns = Columns(0, (0,) * len(rows), (end,) * len(rows), (0,) * len(rows))
    placed = []
    for i, row in enumerate(rows):
        for delta, slot in row.residual_slots:
            if cached and slot < len(row.cached):
                column = columns.prompts[i] - len(row.cached) + slot
                if not delta.onward:
                    continue  # done in the prefill
            else:
                column = columns.tails[i] - len(row.tail) - len(row.prompt_ids) + slot
            placed.append(Placed(i, column, delta))
    edits = Editing(model.hf, layer_edits(placed), columns.start, cached=cached)
    barred = [
        PlacedSlot(
            i, columns.prompts[i] - slot_from_end(h.slot, len(row.cached), i), columns.tails[i] - len(row.read), h
        )
        for i, row in enumerate(rows)
        for h in row.hidden
    ]
    barred += [
        PlacedSlot(i, columns.banks[i] + h.slot, columns.tails[i] - len(row.read), h)
        for i, row in enumerate(rows)
        for h in row.bank_hidden
    ]
    reading: AbstractContextManager[object] = edits
    if barred:
        reading = _Both(reading, Hiding(model.hf, columns.start, barred))
    if any(row.lasting for row in rows):
        reading = _Both(reading, Lasting(model.hf, [row.lasting for row in rows]))
    return reading


class _Both:
    """Two contexts as one that may be entered again and again, as each of them may."""

    def __init__(self, outer: AbstractContextManager[object], inner: AbstractContextManager[object]) -> None:
        self.outer, self.inner = outer, inner

    def __enter__(self) -> None:
        self.outer.__enter__()
        self.inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)
        self.outer.__exit__(*error)
