"""What an intervention's edits come to in each row: spans looked up, early gates asked, banks and erased slots told
apart from what is done to the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..edits.addition import Add
from ..edits.banks import Bank, joined
from ..edits.base import CacheEdit, SlotEdit
from ..edits.displaced import ungated
from ..edits.gates import opens, show
from ..edits.hiding import HiddenSlot
from ..edits.operators import Erase, Insert
from ..edits.spans.spans import CachedPrompt
from ..models.attention import query_heads
from ..models.model import Model
from ..models.prompts import Prompt


@dataclass(frozen=True, eq=False)
class Inserted:
    """What stands before a prompt.

    Attributes:
        bank: its slots.
        hidden: those that some layers don't read, or that are weighed.
    """

    bank: Bank
    hidden: tuple[HiddenSlot, ...] = ()


class RowEdits(NamedTuple):
    """What is done to a batch, an entry a row.

    Attributes:
        deltas: edits of the cache, in order, with slots by number.
        hidden: slots of the prompt that what is read next doesn't read.
        banks: what stands before the prompt.
        lasting: what is done to every slot that is cached after the prompt.
    """

    deltas: list[tuple[CacheEdit, ...]]
    hidden: list[tuple[HiddenSlot, ...]]
    banks: list[Inserted | None]
    lasting: list[tuple[SlotEdit, ...]]


def look_up(
    model: Model,
    deltas: Sequence[tuple[CacheEdit, ...]],
    hidden: Sequence[tuple[HiddenSlot, ...]],
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    chats: Sequence[Prompt],
) -> RowEdits:
    """Each row's edits with their spans looked up; what is erased goes to what is hidden, what is inserted becomes the
    row's bank, what is done to new slots is kept by itself. Plain additions are left as they are, and cost nothing.

    Args:
        model: the model that runs.
        deltas, hidden: per row, what the intervention asks for.
        prompts: token ids.
        lengths: per row, how many of them the cache holds.
        chats: what the ids were made from, for spans by message; empty: unknown.

    Raises:
        ValueError: a span that isn't found, or a gate that raises or gives no truth value.
    """
    if all(isinstance(edit, Add) and edit.plain for row in deltas for edit in row):
        return RowEdits(list(deltas), list(hidden), [None] * len(prompts), [()] * len(prompts))
    deltas = _behind_gates(model, deltas, prompts, lengths)
    banks: dict[tuple[int, ...], Inserted] = {}
    edited, erased, lasting, inserted = [], [], [], list[Inserted | None]()
    for row, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
        prompt = CachedPrompt.of(model.tokenizer, ids[:length], chats[row] if chats else None)
        found = [edit for given in deltas[row] for edit in given.resolve(prompt, row)]
        given = [edit for edit in found if isinstance(edit, Insert) and edit.weight]
        key = tuple(map(id, given))
        if given and key not in banks:
            banks[key] = _inserted(model, given)  # one object for all rows: they share a prompt's prefill
        inserted.append(banks.get(key))
        barred = [slot for edit in found if isinstance(edit, Erase) for slot in edit.hidden_slots(model)]
        erased.append((*hidden[row], *barred))
        edited.append(tuple(edit for edit in found if not isinstance(edit, Insert | Erase)))
        lasting.append(tuple(edit for edit in deltas[row] if isinstance(edit, SlotEdit) and edit.every))
    return RowEdits(edited, erased, inserted, lasting)


def _inserted(model: Model, edits: Sequence[Insert]) -> Inserted:
    """Banks one behind the other, what layers that weren't chosen don't read of them, and what the others weigh."""
    hidden, slot = list[HiddenSlot](), 0
    for edit in edits:
        slots = range(slot, slot := slot + len(edit.bank))
        if edit.layers is None and edit.weight == 1:
            continue  # attention as it is
        reading = torch.zeros(model.n_layers, query_heads(model.hf), dtype=torch.bool)
        reading[range(model.n_layers) if edit.layers is None else list(edit.layers)] = True
        for heads, weight in ((~reading, 0.0), (reading, edit.weight)):
            if weight != 1 and heads.any():
                hidden += [HiddenSlot(heads, at, weight=weight) for at in slots]
    return Inserted(joined([edit.bank for edit in edits]), tuple(hidden))


def _behind_gates(
    model: Model, deltas: Sequence[tuple[CacheEdit, ...]], prompts: Sequence[Sequence[int]], lengths: Sequence[int]
) -> list[tuple[CacheEdit, ...]]:
    """The edits without those that act before or after the cache is there, and whose gate is closed: these gates are
    shown the last slot of the prompt by itself, read once more for them. The others are asked when the cache is there.
    """

    def early(edit: CacheEdit) -> bool:
        here = isinstance(edit, Insert | Erase) or (isinstance(edit, SlotEdit) and edit.every)
        return here and getattr(edit, "when", None) is not None

    asked = [row for row, edits in enumerate(deltas) if any(map(early, edits))]
    distinct = list(dict.fromkeys(tuple(prompts[row][: lengths[row]]) for row in asked))
    shown = dict(zip(distinct, show(model, distinct), strict=True))
    # one object for all rows: they share a prompt's prefill, and are edited together
    plain = {id(edit): ungated(edit) if early(edit) else edit for row in asked for edit in deltas[row]}
    open_edits = list(deltas)
    for row in asked:
        last = shown[tuple(prompts[row][: lengths[row]])]
        open_edits[row] = tuple(
            plain[id(edit)]
            for edit in deltas[row]
            if not early(edit) or opens(edit.when, last, row)  # type: ignore[attr-defined]
        )
    return open_edits
