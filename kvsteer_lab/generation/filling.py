"""Filling: rows' caches are prefilled once a prompt, edited, and forked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from ..edits.banks import cache_of_banks
from ..edits.cache import apply
from ..edits.hiding import Hiding, PlacedSlot
from ..edits.residual import Placed, layer_edits
from ..models.model import Model
from ..models.prefill import close_gaps, fill, read_once
from ..models.shared_prefix import worth_sharing
from ..models.tokens import pad_left
from .rows import Row


def fill_rows(
    model: Model, rows: Sequence[Row]
) -> tuple[DynamicCache, Int[Tensor, "rows time"], Int[Tensor, "rows time"]]:
    """The edited caches of all rows, with the full ids and their mask. Each distinct prompt is prefilled once for each
    way its residual stream is edited.

    The cache covers the left-padded prompts; what is read next follows, left-padded too. Read it within `editing`.

    Args:
        model: the model that runs.
        rows: what is decoded or scored together.

    Returns:
        The cache, the ids and their mask.

    Raises:
        ValueError: a delta that doesn't fit the cache, or that overflows in its dtype.
    """
    keys = [
        (row.cached, id(row.bank), tuple(id(d) for d, slot in row.residual_slots if slot < len(row.cached)))
        for row in rows
    ]
    first = {key: i for i, key in reversed([*enumerate(keys)])}
    distinct = sorted(first.values())
    place = {keys[i]: at for at, i in enumerate(distinct)}
    fork = [place[key] for key in keys]
    prompts = [rows[i].cached for i in distinct]
    ids, mask = pad_left(prompts, model.pad_id, model.device)
    placed = [
        Placed(at, ids.shape[1] - len(rows[i].cached) + slot, delta)
        for at, i in enumerate(distinct)
        for delta, slot in rows[i].residual_slots
        if slot < len(rows[i].cached)
    ]
    edit = None
    if any(row.deltas for row in rows):
        deltas, lengths = [row.deltas for row in rows], [len(row.cached) for row in rows]
        edit = partial(apply, deltas=deltas, lengths=lengths)
    behind, banked = None, mask
    if any(row.bank is not None for row in rows):
        banks = [None if (found := rows[i].bank) is None else found.bank for i in distinct]
        behind = cache_of_banks(model, banks)
        there = torch.tensor([[bank is not None] for bank in banks], device=mask.device).to(mask)
        banked = torch.cat([there.expand(-1, behind.get_seq_length()), mask], 1)
    forked = None if fork == list(range(len(distinct))) else fork
    begin = banked.shape[1] - ids.shape[1]
    barred = [PlacedSlot(at, h.slot, begin, h) for at, i in enumerate(distinct) for h in rows[i].bank_hidden]
    shared = worth_sharing(model, prompts) if behind is None and not placed else 0
    with Hiding(model.traced._module, begin, barred) if barred else nullcontext():  # what nnsight runs
        if shared:
            cache = _fill_after(model, prompts, shared, fork=fork, edit_cache=edit)
        else:
            edits = layer_edits(placed)
            cache = fill(model, ids, banked, fork=forked, edit_cache=edit, edit_layers=edits, behind=behind)
    tails, seen = pad_left([row.read for row in rows], model.pad_id, model.device)
    index = torch.tensor(fork, device=model.device)
    padding = ids.new_full((len(distinct), banked.shape[1] - ids.shape[1]), model.pad_id)  # a bank has no tokens
    ids = torch.cat([padding, ids], 1)
    return cache, torch.cat([ids[index], tails], 1), torch.cat([banked[index], seen], 1)


def _fill_after(
    model: Model,
    prompts: Sequence[Sequence[int]],
    shared: int,
    *,
    fork: Sequence[int],
    edit_cache: Callable[[DynamicCache], object] | None,
) -> DynamicCache:
    """What `fill` makes of whole prompts, with their first `shared` tokens read once."""
    rest, seen = pad_left([prompt[shared:] for prompt in prompts], model.pad_id, model.device)
    mask = torch.cat([torch.ones_like(seen[:, :1]).expand(-1, shared), seen], 1)
    lengths = [len(prompts[i]) - shared for i in fork]

    def close_and_edit(cache: DynamicCache) -> None:
        close_gaps(cache, shared, lengths)
        if edit_cache is not None:
            edit_cache(cache)

    behind = read_once(model, prompts[0][:shared], len(prompts))
    return fill(model, rest, mask, fork=fork, edit_cache=close_and_edit, behind=behind)
