"""Vectors for several last slots."""

from __future__ import annotations

import torch

from ..edits.addition import Add
from ..edits.banks import Bank
from ..edits.given import whole_number
from ..models.model import Model
from ..models.tokens import encode
from ..vectors.pairs import ContrastiveSet


def several_slots(model: Model, pairs: ContrastiveSet, slots: int, ck: float, cv: float) -> tuple[Add, ...]:
    """The mean difference at each of the last slots, added to that slot (our own; the paper's code takes one slot, the
    last, the last but one, or a number): v_s = mean_i d_i[s], s = -1 ... -m. Cost: both sides of n pairs read one by
    one.

    Args:
        model, pairs: as for `kv.extract`; both sides end in the same words, a question or a generation prompt.
        slots: m.
        ck, cv: coefficients of keys and values.

    Returns:
        Operators for `kv.CacheEdits`.

    Raises:
        ValueError: no slots, or a prompt that is shorter.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> [edit.slot for edit in kv.methods.several_slots(kv.load("tiny"), pairs, 2, 0, 4)]
        [-2, -1]
    """
    sides = [[encode(model.tokenizer, text) for text in side] for side in (pairs.positive, pairs.negative)]
    shortest = min(len(ids) for side in sides for ids in side)
    if not 1 <= whole_number("The number of slots", slots) <= shortest:
        raise ValueError(f"slots={slots!r} must be 1 to {shortest}, the length of the shortest prompt.")
    means = []
    for side in sides:
        banks = [Bank.of_tokens(model, ids, range(len(ids) - slots, len(ids))) for ids in side]
        means.append([torch.stack([getattr(b, part) for b in banks]).mean(0) for part in ("keys", "values")])
    keys, values = (positive - negative for positive, negative in zip(*means, strict=True))
    return tuple(Add(ck * keys[:, :, s], cv * values[:, :, s], s - slots) for s in range(slots))
