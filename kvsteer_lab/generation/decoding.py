"""Decoding: the plain model goes on from the edited caches of rows that are read together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteriaList
from transformers.generation import LogitsProcessorList

from ..models.growing import room_to_grow
from ..models.lock import locked
from ..models.model import Model
from ..models.tokens import pad_left
from .editing import editing
from .filling import fill_rows
from .processors import FiniteGuard, split_off_readers
from .rows import Row
from .sampling import SharedNoise
from .settings import Settings
from .stopping import StopsAtStrings


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
    replies = [settings.reply_of(row) for row in new]
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
        with room_to_grow(cache, 0 if cache is None else ids.shape[1] - cache.get_seq_length() + config.max_new_tokens):
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
