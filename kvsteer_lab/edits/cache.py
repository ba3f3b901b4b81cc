"""Adding to single slots of a cache."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class CacheDelta:
    """What is added to one slot of one row: coefficients and masks are already folded in.

    Attributes:
        keys, values: float32 `[layers, kv_heads, head_dim]`.
        slot: index into the row's unpadded ids; negative counts from the end.
    """

    keys: Float[Tensor, "layers kv_heads head_dim"]
    values: Float[Tensor, "layers kv_heads head_dim"]
    slot: int = -1


Deltas = Sequence[CacheDelta | Sequence[CacheDelta]]


def apply(cache: DynamicCache, deltas: Deltas, *, lengths: Sequence[int] | None = None) -> DynamicCache:
    """Add each row's deltas to the cache, in place, and touch nothing else.

    The sum of a slot's deltas is made in float32 and cast once to the cache's dtype, on each layer's own device.

    Args:
        cache: as `model.prefill` returns it, rows left-padded.
        deltas: one a row: a `CacheDelta`, or a sequence of them (none, several slots, several at one slot).
        lengths: each row's number of real tokens; `None`: no row is padded.

    Returns:
        The same cache.

    Raises:
        ValueError: not one entry a row, a shape that isn't the cache's, NaN or infinity, a slot out of range, or
            one that a sliding-window layer has already dropped. Raised before anything is changed.
    """
    rows = [(d,) if isinstance(d, CacheDelta) else tuple(d) for d in deltas]
    first = cache.layers[0]
    n_rows, n_slots = first.keys.shape[0], cache.get_seq_length()
    if len(rows) != n_rows:
        raise ValueError(
            f"The cache has {n_rows} rows, but {len(rows)} rows of deltas were given; pass one entry a row (an empty"
            " tuple for none)."
        )
    lengths = [n_slots] * n_rows if lengths is None else list(lengths)
    shape = (len(cache.layers), first.keys.shape[1], first.keys.shape[3])
    summed: dict[tuple[int, int], CacheDelta] = {}
    for row, entries in enumerate(rows):
        for delta in entries:
            back = slot_from_end(delta.slot, lengths[row], row)
            _check(delta, shape, row)
            old = summed.get((row, back))
            summed[row, back] = (
                delta if old is None else CacheDelta(old.keys + delta.keys, old.values + delta.values, delta.slot)
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
    for layer, back, at, keys, values in plan:
        where = torch.tensor(at, device=layer.keys.device)
        layer.keys[:, :, -back].index_add_(0, where, keys.to(layer.keys))
        layer.values[:, :, -back].index_add_(0, where, values.to(layer.values))
    return cache


def check_slot(slot: SupportsIndex) -> int:
    """The slot as a Python integer.

    Raises:
        ValueError: something that isn't a whole number.
    """
    if isinstance(slot, bool) or not isinstance(slot, SupportsIndex):
        raise ValueError(f"The slot is {slot!r}; it must be a whole number, negative to count from the prompt's end.")
    return slot.__index__()


def slot_from_end(slot: int, length: int, row: int) -> int:
    """How far a slot lies from the end of a row of `length` cached tokens: 1 is the last.

    Raises:
        ValueError: the row has no such slot.
    """
    back = length - slot if slot >= 0 else -slot
    if not 1 <= back <= length:
        raise ValueError(
            f"Slot {slot} is out of range for row {row}, which has {length} cached tokens; choose {-length} to"
            f" {length - 1}."
        )
    return back


def _check(delta: CacheDelta, shape: tuple[int, ...], row: int) -> None:
    for name, part in (("keys", delta.keys), ("values", delta.values)):
        if tuple(part.shape) != shape:
            raise ValueError(
                f"The {name} of row {row}'s delta are {tuple(part.shape)}, but the cache is {shape} (layers, KV heads,"
                " head width)."
            )
        if not torch.isfinite(part).all():
            raise ValueError(
                f"The {name} of row {row}'s delta hold NaN or infinity; check the coefficients and the vectors."
            )
