"""Rows of a cache that leave it, and rows that join it, while texts are being decoded.

Rows of a batch end in the same column, so a cache is widened, and narrowed, on its left: with slots that the mask
hides.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from .architectures import STEERABLE_LAYERS


def rows_can_move(cache: DynamicCache) -> bool:
    """Whether rows may leave this cache and join it: all of its layers are of kinds whose contents are known.

    Args:
        cache: what a forward pass gave.

    Returns:
        `False` for layers of any other type, subclasses among them.

    >>> import kvsteer_lab as kv
    >>> rows_can_move(kv.load("tiny").prefill("How many?"))
    True
    """
    return all(type(layer) in STEERABLE_LAYERS for layer in cache.layers)


def keep_rows(cache: DynamicCache, rows: Int[Tensor, " kept"], unused: int = 0) -> None:
    """Keep only these rows, in place.

    Args:
        cache: of which rows are kept.
        rows: their numbers, in the order that they shall have.
        unused: how many columns on the left hold padding alone in these rows; they are dropped, too.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> cache = kv.load("tiny").prefill(["How many?", "Why?"])
    >>> keep_rows(cache, torch.tensor([1]))
    >>> cache.layers[0].keys.shape[0]
    1
    """
    for layer in cache.layers:
        length = layer.get_seq_length() - unused
        held = _held(layer, length)
        index = rows.to(layer.keys.device)
        layer.keys = layer.keys[index, :, layer.keys.shape[2] - held :]
        layer.values = layer.values[index, :, layer.values.shape[2] - held :]
        _say_length(layer, length)


def join_rows(cache: DynamicCache, other: DynamicCache) -> None:
    """Put the rows of another cache below those of the first, in place. The shorter one is padded on its left; the
    other is emptied.

    Args:
        cache: gets the rows.
        other: gives them; of the same model.

    >>> import kvsteer_lab as kv
    >>> model = kv.load("tiny")
    >>> long, short = model.prefill("How many apples?"), model.prefill("Why?")
    >>> width = long.get_seq_length()
    >>> join_rows(long, short)
    >>> long.layers[0].keys.shape[0], long.get_seq_length() == width
    (2, True)
    """
    length = max(cache.get_seq_length(), other.get_seq_length())
    for mine, theirs in zip(cache.layers, other.layers, strict=True):
        held = _held(mine, length)
        mine.keys = torch.cat([_widened(mine.keys, held), _widened(theirs.keys, held)])
        theirs.keys = None
        mine.values = torch.cat([_widened(mine.values, held), _widened(theirs.values, held)])
        theirs.values = None
        _say_length(mine, length)


def _held(layer: Any, length: int) -> int:
    """How many slots a layer holds after `length` tokens."""
    return min(length, layer.sliding_window - 1) if type(layer) is DynamicSlidingWindowLayer else length


def _say_length(layer: Any, length: int) -> None:
    """Other layers count their slots."""
    if type(layer) is DynamicSlidingWindowLayer:
        layer.cumulative_length = length


def _widened(part: Tensor, slots: int) -> Tensor:
    part = part[:, :, max(0, part.shape[2] - slots) :]
    return pad(part, (0, 0, slots - part.shape[2], 0))
