"""Prefilling: the cache of whole prompts, and the keys and values of their last tokens, from nnsight traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import nnsight
import torch
from jaxtyping import Float, Int
from nnsight.intervention.interleaver import EarlyStopException
from torch import Tensor
from transformers import DynamicCache

from .caches import cache_of
from .layers import layers_path
from .lock import locked
from .model import Model
from .shared_prefix import SHARED, can_share, shared_length
from .tokens import pad_left

LayerEdit = Callable[[Any, int], Any]
"""Given a decoder layer's output and the column at which it begins, the output to put in its place."""


@locked
@torch.no_grad()
def fill(
    model: Model,
    ids: Int[Tensor, "prompts time"],
    mask: Int[Tensor, "prompts time"],
    *,
    fork: Sequence[int] | None = None,
    edit_cache: Callable[[DynamicCache], object] | None = None,
    edit_layers: Mapping[int, LayerEdit] | None = None,
    behind: DynamicCache | None = None,
) -> DynamicCache:
    """Prefill in one nnsight trace: edit the residual stream there, fork the rows, and edit their cache, in place.

    Args:
        model: the model.
        ids, mask: left-padded prompts.
        fork: per row of the result, the prompt whose cache it starts from; `None`: the prompts as they are.
        edit_cache: edits the forked cache in place, `kv.edits.apply` with each row's deltas, say.
        behind: a cache that the prompts are read behind; the mask covers it as well. It is changed.
        edit_layers: by layer, what edits the output of that decoder layer while the prompts are read.
    """
    model.check_adapters()
    arguments = model.forward_arguments(ids, mask)
    if behind is not None:
        if "position_ids" in arguments:
            arguments["position_ids"] = arguments["position_ids"][:, -ids.shape[1] :]
        arguments[model.cache_argument] = behind
    index = None if fork is None else torch.tensor(fork)
    edits = edit_layers or {}
    layers = model.traced.get(layers_path(model.hf)) if edits else ()
    with model.traced.trace(**arguments, use_cache=True):
        for layer, edit in edits.items():  # in the order in which the layers run
            layers[layer].output = edit(layers[layer].output, 0)
        cache = cache_of(model.traced.output)
        fork_rows(cache, index)
        if edit_cache is not None:
            edit_cache(cache)
        nnsight.save(cache)
    return cache


def fork_rows(cache: DynamicCache, index: Int[Tensor, " rows"] | None) -> None:
    """Make the cache's rows copies of the rows that `index` names, in place."""
    if index is None:
        return
    for layer in cache.layers:
        layer.batch_select_indices(index.to(layer.keys.device))


@locked
@torch.no_grad()
def read_once(model: Model, beginning: Sequence[int], n_rows: int) -> DynamicCache:
    """The cache of a beginning that several prompts share, a row for each of them.

    Args:
        model: the model.
        beginning: token ids.
        n_rows: how many prompts go on from it.

    Returns:
        A cache of equal rows, to be given to `fill` as `behind`.
    """
    ids, mask = pad_left([beginning], model.pad_id, model.device)
    return fill(model, ids, mask, fork=[0] * n_rows)


def close_gaps(cache: DynamicCache, beginning: int, lengths: Sequence[int]) -> None:
    """Move each row's beginning to what follows it, over the padding between them, in place. The rows are then padded
    on their left, as if they had been read as a whole.

    Args:
        cache: rows of a common beginning, padding, and what follows.
        beginning: how many slots the beginning has.
        lengths: per row, how many slots follow it.
    """
    width = max(lengths)
    if min(lengths) == width:
        return
    columns = torch.arange(beginning + width)
    padding = torch.tensor([[width - n] for n in lengths])
    moved = torch.where(columns < padding, columns + beginning, columns - padding)
    source = torch.where(columns < padding + beginning, moved, columns)
    for layer in cache.layers:
        index = source.to(layer.keys.device)[:, None, :, None]
        layer.keys = layer.keys.take_along_dim(index, 2)
        layer.values = layer.values.take_along_dim(index, 2)


_MANY = 32
"""From how many tokens a layer on the last token is read by itself."""


class _Ending(DynamicCache):
    """A cache that ends the forward pass once layer `last` is cached: what follows can't change the slots that are
    read.
    """

    last: int

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        cached = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self.last:
            raise EarlyStopException  # as `tracer.stop()` does
        return cached


@locked
@torch.no_grad()
def last_slots(
    model: Model, ids: Int[Tensor, "prompts time"], mask: Int[Tensor, "prompts time"]
) -> tuple[Float[Tensor, "prompts layers kv_heads head_dim"], Float[Tensor, "prompts layers kv_heads head_dim"]]:
    """Keys and values of each prompt's last token, float32 on the CPU, from short nnsight traces.

    A long beginning that all prompts share is read once. Nothing is computed that the last tokens' keys and values
    don't depend on: a layer caches them before it attends, so the pass ends in the last layer. The last token reads the
    earlier ones in all layers but the last. So, in large batches, the earlier tokens end a layer sooner, and the last
    token is read by itself; in small ones that would save less than reading all weights once more costs.
    """
    model.check_adapters()
    cache = _Ending(config=model.hf.config)
    cache.last = model.n_layers - 1
    rows = [row[seen.bool()].tolist() for row, seen in zip(ids.cpu(), mask.cpu(), strict=True)]
    shared = shared_length(rows) if len(rows) > 1 and can_share(model, rows) else 0
    start = 0
    if shared >= SHARED:
        start = shared
        before, seen = pad_left([rows[0][:shared]], model.pad_id, model.device)
        _trace(model, cache, model.forward_arguments(before, seen))
        fork_rows(cache, torch.zeros(len(rows), dtype=torch.long))
        after, own = pad_left([row[shared:] for row in rows], model.pad_id, model.device)
        ids = torch.cat([before.expand(len(rows), -1), after], 1)
        mask = torch.cat([seen.expand(len(rows), -1), own], 1)
    arguments = model.forward_arguments(ids, mask)
    read = ids.shape[1] - start
    if read > 1 and model.n_layers > 1 and len(rows) * read > _MANY * model.n_layers:
        cache.last = model.n_layers - 2
        _trace(model, cache, _columns(arguments, start, ids.shape[1] - 1))
        start, cache.last = ids.shape[1] - 1, model.n_layers - 1
    _trace(model, cache, _columns(arguments, start, ids.shape[1]))
    keys = torch.stack([x.keys[:, :, -1].float().cpu() for x in cache.layers], 1)
    values = torch.stack([x.values[:, :, -1].float().cpu() for x in cache.layers], 1)
    return keys, values


def _columns(arguments: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    """Arguments of a pass over some columns, which sees those before them."""
    return {
        k: v[:, (0 if k == "attention_mask" else start) : end] if isinstance(v, Tensor) else v
        for k, v in arguments.items()
    }


@locked
def _trace(model: Model, cache: DynamicCache, arguments: dict[str, Any]) -> None:
    arguments = {**arguments, model.cache_argument: cache}
    with model.traced.trace(**arguments, use_cache=True):
        nnsight.save(cache)
