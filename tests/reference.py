"""The method in plain PyTorch, one prompt at a time: no nnsight, no padding, no forking, no `generate`.

Written from the paper and independent of the library, which is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from kvsteer_lab.models.caches import cache_argument, cache_of  # only how this transformers calls its cache


@torch.no_grad()
def prefill(hf: PreTrainedModel, ids: Sequence[int]) -> DynamicCache:
    """The cache of one prompt."""
    return cache_of(hf(input_ids=torch.tensor([list(ids)]), use_cache=True))


def read_on(hf: PreTrainedModel, ids: Sequence[int], cache: DynamicCache) -> Tensor:
    """The logits behind the last of these tokens, read on from a cache, which grows by them: `[vocab]`."""
    given = {cache_argument(hf): cache}
    return hf(input_ids=torch.tensor([list(ids)]), use_cache=True, **given).logits[0, -1]


@torch.no_grad()
def steered(hf: PreTrainedModel, ids: Sequence[int], offset: int, keys: Tensor, values: Tensor, new: int) -> list[int]:
    """Prefill, add `keys` and `values` `[layers, kv_heads, head_dim]` to the last slot, read the offset token, decode
    greedily.
    """
    cache = prefill(hf, ids)
    for index, layer in enumerate(cache.layers):
        layer.keys[0, :, -1] += keys[index]
        layer.values[0, :, -1] += values[index]
    token, found = offset, []
    for _ in range(new):
        token = int(read_on(hf, [token], cache).argmax())
        found.append(token)
    return found


def plain(hf: PreTrainedModel, ids: Sequence[int], new: int, **settings: Any) -> list[int]:
    """`model.generate` on one prompt, greedy."""
    out = hf.generate(
        torch.tensor([list(ids)]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=new,
        do_sample=False,
        **settings,
    )
    return out[0, len(ids) :].tolist()


def mean_difference(
    hf: PreTrainedModel, positive: Sequence[Sequence[int]], negative: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Mean over pairs of the last slot's keys and values, positive minus negative: `[layers, kv_heads, head_dim]`
    each.
    """
    totals: list[Any] = [0.0, 0.0]
    for sign, side in ((1, positive), (-1, negative)):
        for ids in side:
            layers = prefill(hf, ids).layers
            totals[0] = totals[0] + sign * torch.stack([x.keys[0, :, -1] for x in layers]).double()
            totals[1] = totals[1] + sign * torch.stack([x.values[0, :, -1] for x in layers]).double()
    return (totals[0] / len(positive)).float(), (totals[1] / len(positive)).float()


def activation_steered(
    hf: PreTrainedModel, ids: Sequence[int], vectors: Tensor, slot: int, new: int, *, onward: bool
) -> list[int]:
    """`model.generate` on one prompt while hooks add `vectors` `[layers, hidden]` behind each layer, at `slot` or from
    there on at every token.
    """
    layers = [module for module in hf.modules() if isinstance(module, GradientCheckpointingLayer)]
    assert len(layers) == len(vectors)
    handles = [
        layer.register_forward_hook(_adding(vector, slot, onward))
        for layer, vector in zip(layers, vectors, strict=True)
    ]
    try:
        return plain(hf, ids, new, eos_token_id=hf.config.vocab_size)
    finally:
        for handle in handles:
            handle.remove()


def steered_at_the_newest(hf: PreTrainedModel, ids: Sequence[int], vectors: Tensor, new: int) -> list[int]:
    """Greedy tokens with everything computed anew for each, and `vectors` added behind each layer at the last position
    of that pass alone: steering-vectors' `apply(model, min_token_index=-1)` around `generate(use_cache=False)`.
    """
    found: list[int] = []
    for _ in range(new):
        found.append(int(logits_at_the_newest(hf, [*ids, *found], vectors, [0])[0].argmax()))
    return found


@torch.no_grad()
def logits_at_the_newest(hf: PreTrainedModel, ids: Sequence[int], vectors: Tensor, text: Sequence[int]) -> Tensor:
    """The logits before each token of `text` that follows `ids`, each from a pass of its own: `[tokens, vocab]`."""
    layers = [module for module in hf.modules() if isinstance(module, GradientCheckpointingLayer)]
    handles = [
        layer.register_forward_hook(_adding(vector, -1, onward=True))
        for layer, vector in zip(layers, vectors, strict=True)
    ]
    try:
        passes = [torch.tensor([[*ids, *text[:t]]]) for t in range(len(text))]
        return torch.stack([hf(given, use_cache=False).logits[0, -1] for given in passes])
    finally:
        for handle in handles:
            handle.remove()


def _adding(vector: Tensor, slot: int, onward: bool) -> Any:
    def hook(module: nn.Module, given: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        if hidden.shape[1] > 1:  # the prompt; later passes read one token each
            hidden[:, slot : None if onward else slot + 1] += vector
        elif onward:
            hidden += vector
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return hook
