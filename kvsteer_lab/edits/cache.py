"""Editing a cache: one function applies all operators, in a trace and outside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from transformers import DynamicCache

from .addition import Add, check_addition
from .base import CacheEdit, CacheShape, SlotEdit
from .given import check_sequence
from .program import plan as plan_edits
from .rounding import check_sums
from .slots import slot_from_end
from .spans.spans import CachedPrompt

Deltas = Sequence[CacheEdit | Sequence[CacheEdit]]


def apply(
    cache: DynamicCache,
    deltas: Deltas,
    *,
    lengths: Sequence[int] | None = None,
    prompts: Sequence[CachedPrompt] | None = None,
) -> DynamicCache:
    """Edit each row's cache by its operators, in place and in their order, and touch nothing else.

    Where a row has plain additions only, the sum of a slot's deltas is made in float32 and cast once to the cache's
    dtype, on each layer's own device; so is the result of any other row's operators.

    Args:
        cache: as `model.prefill` returns it, rows left-padded.
        deltas: one a row: an operator, or a sequence of them (none, several slots, several at one slot).
        lengths: each row's number of real tokens; `None`: no row is padded.
        prompts: each row's cached tokens, for spans by text or message.

    Returns:
        The same cache. A `RoundingWarning` tells where its dtype takes up less than nine tenths of an edit.

    Raises:
        ValueError: not one entry a row, layers, KV heads or a shape that the cache hasn't got, NaN or infinity (also
            what becomes infinite in the cache's dtype), a slot out of range, a span that isn't found, one that a
            sliding-window layer has already dropped, a gate that raises, or what acts before or after: `Insert`,
            `Erase`, `every`. Raised before anything is changed.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> model = kv.load("tiny")
    >>> cache = model.prefill("How many?")
    >>> before = cache.layers[0].values[0, :, -1].clone()
    >>> delta = kv.edits.Add(torch.zeros(4, 2, 32), torch.ones(4, 2, 32))
    >>> bool(torch.allclose(kv.edits.apply(cache, [delta]).layers[0].values[0, :, -1], before + 1))
    True
    """
    rows = [(d,) if isinstance(d, CacheEdit) else tuple(d) for d in deltas]
    first = cache.layers[0]
    n_rows, n_slots = first.keys.shape[0], cache.get_seq_length()
    if len(rows) != n_rows:
        raise ValueError(
            f"The cache has {n_rows} rows, but {len(rows)} rows of deltas were given; pass one entry a row (an empty"
            " tuple for none)."
        )
    lengths = [n_slots] * n_rows if lengths is None else list(lengths)
    check_sequence("lengths", lengths, n_rows, "row")
    wrong = next((length for length in lengths if not 1 <= length <= n_slots), None)
    if wrong is not None:
        raise ValueError(f"A row can't have {wrong} of {n_slots} cached tokens; lengths= counts each row's own tokens.")
    held = CacheShape(len(cache.layers), first.keys.shape[1], first.keys.shape[3])
    shape = held.vectors
    known = [CachedPrompt(tuple(range(length))) for length in lengths] if prompts is None else list(prompts)
    check_sequence("prompts", known, n_rows, "row")
    resolved = [_resolve(entries, known[row], row, held) for row, entries in enumerate(rows)]
    # rows of plain additions alone are summed together; the others are edited step by step
    mixed = {
        row: edits
        for row, edits in enumerate(resolved)
        if not all(isinstance(edit, Add) and edit.when is None for edit in edits)
    }
    written = plan_edits(cache, mixed, lengths)
    summed: dict[tuple[int, int], Add] = {}
    for row, entries in enumerate(resolved):
        for delta in () if row in mixed else entries:
            assert isinstance(delta, Add)
            back = slot_from_end(delta.slot, lengths[row], row)
            check_addition(delta, shape, row)
            old = summed.get((row, back))
            summed[row, back] = (
                delta if old is None else Add(old.keys + delta.keys, old.values + delta.values, delta.slot)
            )
    by_slot: dict[int, list[int]] = defaultdict(list)
    for row, back in summed:
        by_slot[back].append(row)
    plan = []
    for back, at in by_slot.items():
        keys = torch.stack([summed[row, back].keys for row in at])
        values = torch.stack([summed[row, back].values for row in at])
        for index, layer in enumerate(cache.layers):
            if back <= layer.keys.shape[2]:
                plan.append((layer, back, at, keys[:, index], values[:, index]))
            elif keys[:, index].any() or values[:, index].any():
                raise ValueError(
                    f"Slot {-back} from the end lies outside layer {index}'s sliding window of"
                    f" {layer.keys.shape[2] + 1} tokens; leave that layer out (layers=...) or choose a later slot."
                )
    check_sums(plan)
    for layer, back, at, keys, values in plan:
        where = torch.tensor(at, device=layer.keys.device)
        layer.keys[:, :, -back].index_add_(0, where, keys.to(layer.keys))
        layer.values[:, :, -back].index_add_(0, where, values.to(layer.values))
    for new in written:
        new.write()
    return cache


def _resolve(edits: Sequence[CacheEdit], prompt: CachedPrompt, row: int, held: CacheShape) -> list[SlotEdit]:
    """A row's operators with slots by number."""
    found: list[SlotEdit] = []
    for edit in edits:
        if not isinstance(edit, SlotEdit) or type(edit).changed is SlotEdit.changed:
            raise ValueError(
                f"{type(edit).__name__} can't be applied to a cache that is there: it acts before or after; use it in"
                " kv.CacheEdits."
            )
        if edit.every:
            raise ValueError(
                f"{type(edit).__name__} with every=True reaches tokens that aren't cached yet; use it in kv.CacheEdits."
            )
        if isinstance(edit, Add):
            check_addition(edit, held.vectors, row)
        if not (isinstance(edit, Add) and edit.plain):
            edit.check_shape(held)
        found += edit.resolve(prompt, row)
    return found
