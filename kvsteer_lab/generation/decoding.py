"""Execution: rows are prefilled once a prompt, edited, forked and decoded together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteriaList
from transformers.generation import LogitsProcessorList

from ..edits.banks import cache_of_banks
from ..edits.cache import apply
from ..edits.hiding import HiddenSlot, Hiding, PlacedSlot
from ..edits.lasting import Lasting
from ..edits.residual import Editing, Placed, ResidualDelta, layer_edits
from ..edits.slots import slot_from_end
from ..models.lock import locked
from ..models.model import Model
from ..models.prefill import close_gaps, fill, read_once
from ..models.shared_prefix import worth_sharing
from ..models.tokens import pad_left
from .processors import FiniteGuard, split_off_readers
from .rows import Row
from .sampling import SharedNoise
from .settings import Settings
from .stopping import StopsAtStrings


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
        (row.cached, id(row.bank), tuple(id(d) for d, slot in _residual_slots(row) if slot < len(row.cached)))
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
        for delta, slot in _residual_slots(rows[i])
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
    barred = [PlacedSlot(at, h.slot, begin, h) for at, i in enumerate(distinct) for h in _bank_hidden(rows[i])]
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
        for delta, slot in _residual_slots(row):
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
        for h in _bank_hidden(row)
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


def _bank_hidden(row: Row) -> tuple[HiddenSlot, ...]:
    """The slots of a row's bank that some layers don't read, counted from the bank's first."""
    return () if row.bank is None else row.bank.hidden


def _residual_slots(row: Row) -> list[tuple[ResidualDelta, int]]:
    """A row's residual deltas with their slots as indices into the prompt."""
    return [(delta, delta.slot % len(row.prompt_ids)) for delta in row.residuals]


@locked
def decode(
    model: Model, rows: Sequence[Row], settings: Settings, seed: int, streamer: Any = None, stopping: Any = None
) -> list[list[int]]:
    """New token ids of each row, its end token kept. The rows are of one group of `group_rows`.

    Args:
        model: the model that runs.
        rows: what is decoded together.
        settings: from `resolve`.
        seed: of the noise, where texts are sampled.
        streamer, stopping: as in transformers.

    Returns:
        A list of ids a row.

    Raises:
        NotFiniteError: some row's logits are NaN or infinite.
    """
    noise = [*settings.warpers, SharedNoise([row.noise_key for row in rows], seed)] if settings.sample else []
    cached = rows[0].uses_cache
    with torch.no_grad():
        if cached:
            cache, ids, mask = fill_rows(model, rows)
            # With a cache that covers everything, generate would silently process the prompt a second time.
            assert cache.get_seq_length() < ids.shape[1], "the cache leaves no token to read"
        else:
            model.check_adapters()
            cache = None
            ids, mask = pad_left([row.prompt_ids + row.tail for row in rows], settings.pad, model.device)
        guard = FiniteGuard(len(rows))
        ends = [StopsAtStrings(settings.stop, ids.shape[1])] if settings.stop else []
        stopping = StoppingCriteriaList([*(stopping or []), *ends])
        with editing(model, rows, cached=cached):
            new = continue_ids(
                model, ids, mask, cache, settings, [guard, *noise], streamer=streamer, stopping=stopping, cached=cached
            )
    replies = [settings.stop.cut(cut(row, settings.eos)) for row in new]
    guard.check([len(reply) for reply in replies], [row.label for row in rows])
    return replies


@locked
def continue_ids(
    model: Model,
    ids: Int[Tensor, "rows time"],
    mask: Int[Tensor, "rows time"],
    cache: DynamicCache | None,
    settings: Settings,
    processors: Sequence[LogitsProcessor] = (),
    *,
    streamer: Any = None,
    stopping: Any = None,
    cached: bool = True,
) -> list[list[int]]:
    """Let the plain model go on from given ids: the one call of transformers' `generate`.

    Penalties and bans see each row's real tokens alone; the model's own generation settings are set aside meanwhile,
    for `settings` has taken from them what it takes.

    Args:
        model: the model that runs.
        ids, mask: whole rows, with padding anywhere before the last token.
        cache: what was read of them, all but one or more tokens; it is changed.
        settings: from `resolve`.
        processors: of the logits, after penalties and bans.
        streamer, stopping: as in transformers.
        cached: whether decoding uses a cache.

    Returns:
        New ids of each row, filled up to the longest.
    """
    config, readers = split_off_readers(settings.config, mask)
    config.use_cache = cached
    own = model.hf.generation_config
    model.hf.generation_config = GenerationConfig()
    try:
        out = model.hf.generate(
            ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([*readers, *processors]),
            streamer=streamer,
            stopping_criteria=stopping,
            **({} if cache is None else {model.cache_argument: cache}),
        )
    finally:
        model.hf.generation_config = own
    return out[:, ids.shape[1] :].tolist()


def cut(ids: Sequence[int], eos: frozenset[int]) -> list[int]:
    """The ids up to the first end token, which is kept; what follows is padding.

    Args:
        ids: new tokens of a row.
        eos: end tokens.

    Returns:
        The row's own tokens.

    >>> cut([5, 6, 2, 0, 0], frozenset([2]))
    [5, 6, 2]
    """
    for i, token in enumerate(ids):
        if token in eos:
            return list(ids[: i + 1])
    return list(ids)
