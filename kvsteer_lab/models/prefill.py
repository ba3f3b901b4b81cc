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
) -> DynamicCache:
    """Prefill in one nnsight trace: edit the residual stream there, fork the rows, and edit their cache, in place.

    Args:
        model: the model.
        ids, mask: left-padded prompts.
        fork: per row of the result, the prompt whose cache it starts from; `None`: the prompts as they are.
        edit_cache: edits the forked cache in place, `kv.edits.apply` with each row's deltas, say.
        edit_layers: by layer, what edits the output of that decoder layer while the prompts are read.
    """
    model.check_adapters()
    arguments = model.forward_arguments(ids, mask)
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
    """Keys and values of each prompt's last token, float32 on the CPU, from two short nnsight traces.

    Nothing is computed that they don't depend on. A layer caches its keys and values before it attends, and the last
    token's read
    the earlier tokens in all layers but the last: so the earlier tokens stop at the last layer but one, and the last
    token, traced after them, at the last layer.
    """
    model.check_adapters()
    cache = _Ending(config=model.hf.config)
    arguments = model.forward_arguments(ids, mask)
    if ids.shape[1] > 1 and model.n_layers > 1:
        cache.last = model.n_layers - 2
        _trace(model, cache, {k: v[:, :-1] if isinstance(v, Tensor) else v for k, v in arguments.items()})
        arguments = {
            k: v[:, -1:] if isinstance(v, Tensor) and k != "attention_mask" else v for k, v in arguments.items()
        }
    cache.last = model.n_layers - 1
    _trace(model, cache, arguments)
    keys = torch.stack([x.keys[:, :, -1].float().cpu() for x in cache.layers], 1)
    values = torch.stack([x.values[:, :, -1].float().cpu() for x in cache.layers], 1)
    return keys, values


@locked
def _trace(model: Model, cache: DynamicCache, arguments: dict[str, Any]) -> None:
    arguments = {**arguments, model.cache_argument: cache}
    with model.traced.trace(**arguments, use_cache=True):
        nnsight.save(cache)
