"""Where a paged cache keeps a token's keys and values, asked of the engine's own writer.

Backends lay their blocks out in different ways (tokens before heads, heads before tokens, keys and values apart or
side by side), and a layout that is only slightly misread would steer silently wrong. So every layer's writer writes
counted numbers into one block, and where they are found is where keys and values lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BASE = 64
"""Of the digits that numbers are written in: each is exact in bfloat16 and float16."""

Writer = Callable[[Tensor, Tensor, Tensor], None]
"""Writes keys and values `[tokens, kv_heads, head_dim]` into the slots `[tokens]` of the paged cache."""


def find_places(
    write: Writer, cache: Float[Tensor, "blocks ..."], kv_heads: int, head_dim: int
) -> Int[Tensor, "part tokens kv_heads head_dim"]:
    """Flat indices, within a block, of every token's keys and values.

    Args:
        write: the backend's writer.
        cache: one layer's paged cache, blocks first; block 0 is written to and restored.
        kv_heads, head_dim: of the layer, on this device.

    Returns:
        Indices into a block as it lies in `cache[i]`, keys first.

    Raises:
        ValueError: a cache that isn't plain numbers, or a layout where they aren't found one by one.
    """
    if cache.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(
            f"The KV cache holds {cache.dtype}; cache steering needs it unquantised, so pass --kv-cache-dtype auto."
        )
    block = cache[0]
    tokens, rest = divmod(block.numel(), 2 * kv_heads * head_dim)
    if rest or not tokens:
        raise ValueError(
            f"A block of {block.numel()} numbers doesn't hold keys and values of {kv_heads} heads of width {head_dim};"
            " this model can't be steered here."
        )
    kept, n = block.clone(), block.numel()
    found = torch.zeros(block.shape, dtype=torch.long, device=cache.device)
    codes = torch.arange(n, device=cache.device)
    slots = torch.arange(tokens, device=cache.device)
    try:
        for digit in range(max(1, math.ceil(math.log(n, _BASE)))):
            written = ((codes // _BASE**digit) % _BASE).to(cache.dtype).view(2, tokens, kv_heads, head_dim)
            write(written[0].contiguous(), written[1].contiguous(), slots)
            found += block.round().long() * _BASE**digit
    finally:
        block.copy_(kept)
    ordered, order = found.flatten().sort()
    if not torch.equal(ordered, codes):
        raise ValueError("The attention backend lays out its cache in a way that can't be read; choose another one.")
    return order.view(2, tokens, kv_heads, head_dim)


def own_heads(
    added: Float[Tensor, "part kv_heads head_dim"], local: int, rank: int, world: int
) -> Float[Tensor, "part local head_dim"]:
    """One rank's KV heads: split over ranks, or repeated where there are fewer heads than ranks.

    >>> own_heads(torch.arange(4.0).view(1, 4, 1).expand(2, 4, 1), 2, rank=1, world=2)[0, :, 0].tolist()
    [2.0, 3.0]
    """
    total = added.shape[1]
    start = rank * local if total >= world else rank * total // world
    return added[:, start : start + local]


def add_to_slot(
    cache: Float[Tensor, "blocks ..."],
    places: Int[Tensor, "part tokens kv_heads head_dim"],
    slot: int,
    added: Float[Tensor, "part kv_heads head_dim"],
) -> None:
    """Add to one slot of a layer's paged cache, in place: summed in float32 and cast once.

    Args:
        cache: one layer's, blocks first.
        places: as `find_places` gives them.
        slot: block times tokens a block, plus the place in the block.
        added: to keys and values.
    """
    block = cache[slot // places.shape[1]]
    where = torch.unravel_index(places[:, slot % places.shape[1]], block.shape)
    block[where] = (block[where].float() + added.to(cache.device)).to(block.dtype)
