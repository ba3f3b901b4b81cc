"""The method in plain PyTorch, one prompt at a time: no nnsight, no padding, no forking, no `generate`.

Written from the paper and independent of the library, which is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@torch.no_grad()
def prefill(hf: PreTrainedModel, ids: Sequence[int]) -> DynamicCache:
    """The cache of one prompt."""
    return hf(input_ids=torch.tensor([list(ids)]), use_cache=True).past_key_values


@torch.no_grad()
def steered(hf: PreTrainedModel, ids: Sequence[int], offset: int, keys: Tensor, values: Tensor, new: int) -> list[int]:
    """Prefill, add `keys` and `values` `[layers, kv_heads, head_dim]` to the last slot, read the offset token, decode greedily."""
    cache = prefill(hf, ids)
    for index, layer in enumerate(cache.layers):
        layer.keys[0, :, -1] += keys[index]
        layer.values[0, :, -1] += values[index]
    token, found = offset, []
    for _ in range(new):
        token = int(hf(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0, -1].argmax())
        found.append(token)
    return found


def plain(hf: PreTrainedModel, ids: Sequence[int], new: int, **settings: Any) -> list[int]:
    """`model.generate` on one prompt, greedy."""
    out = hf.generate(torch.tensor([list(ids)]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=new, do_sample=False, **settings)
    return out[0, len(ids) :].tolist()


def mean_difference(hf: PreTrainedModel, positive: Sequence[Sequence[int]], negative: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Mean over pairs of the last slot's keys and values, positive minus negative: `[layers, kv_heads, head_dim]` each."""
    totals: list[Any] = [0.0, 0.0]
    for sign, side in ((1, positive), (-1, negative)):
        for ids in side:
            layers = prefill(hf, ids).layers
            totals[0] = totals[0] + sign * torch.stack([x.keys[0, :, -1] for x in layers]).double()
            totals[1] = totals[1] + sign * torch.stack([x.values[0, :, -1] for x in layers]).double()
    return (totals[0] / len(positive)).float(), (totals[1] / len(positive)).float()
