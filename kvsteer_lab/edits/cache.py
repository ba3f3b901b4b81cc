"""Adding to single slots of a cache.

What is added is summed in float32 and cast once to the cache's dtype. In half precision that has two ends: a large
value overflows, which is an error, and a small one is rounded away against the slot's own value, which is a warning;
`added_to` says what arrives.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ..models.finite import NotFiniteError

ROUNDING = 0.1
"""The relative error of what is added to a layer from which on a warning is given."""


class RoundingWarning(UserWarning):
    """The cache's dtype is too coarse for what is added to it."""


@dataclass(frozen=True)
class CacheDelta:
    """What is added to one slot of one row: coefficients and masks are already folded in.

    Attributes:
        keys, values: float32 `[layers, kv_heads, head_dim]`.
        slot: index into the row's unpadded ids; negative counts from the end.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> kv.CacheDelta(torch.zeros(4, 2, 32), torch.ones(4, 2, 32)).slot
    -1
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
        The same cache. A `RoundingWarning` tells where its dtype takes up less than nine tenths of an edit.

    Raises:
        ValueError: not one entry a row, a shape that isn't the cache's, NaN or infinity (also what becomes infinite in
            the cache's dtype), a slot out of range, or one that a sliding-window layer has already dropped. Raised
            before anything is changed.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> model = kv.load("tiny")
    >>> cache = model.prefill("How many?")
    >>> before = cache.layers[0].values[0, :, -1].clone()
    >>> delta = kv.CacheDelta(torch.zeros(4, 2, 32), torch.ones(4, 2, 32))
    >>> bool(torch.allclose(kv.apply(cache, [delta]).layers[0].values[0, :, -1], before + 1))
    True
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
    _check_sums(plan)
    for layer, back, at, keys, values in plan:
        where = torch.tensor(at, device=layer.keys.device)
        layer.keys[:, :, -back].index_add_(0, where, keys.to(layer.keys))
        layer.values[:, :, -back].index_add_(0, where, values.to(layer.values))
    return cache


def added_to(old: Tensor, added: Tensor) -> Tensor:
    """What really is added where `added` is cast to the dtype of `old` and summed there.

    Args:
        old: values in the cache.
        added: what is asked for, float32.

    Returns:
        float32, of the same shape. In float32 it is what was asked for, but for the last digits.

    >>> import torch
    >>> old = torch.tensor([2.0], dtype=torch.bfloat16)
    >>> added_to(old, torch.tensor([0.01])).tolist()  # bfloat16 has no value between 2 and 2.0156
    [0.015625]
    """
    return (old + added.to(old)).float() - old.float()


def check_cast(delta: CacheDelta, dtype: torch.dtype, label: str) -> None:
    """Refuse a delta that is infinite in the cache's dtype.

    Args:
        delta: what is to be added.
        dtype: the cache's.
        label: of the intervention.

    Raises:
        NotFiniteError: float16 ends at 65504.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> check_cast(kv.CacheDelta(torch.zeros(4, 2, 32), torch.ones(4, 2, 32)), torch.float16, "steered")
    """
    for name, part in (("keys", delta.keys), ("values", delta.values)):
        if not part.to(dtype).isfinite().all():
            largest = float(part.abs().max())
            said = (
                f"reach {largest:.3g}, which is infinite in {_name(dtype)}"
                if largest < float("inf")
                else ("hold NaN or infinity")
            )
            raise NotFiniteError(
                f"The {name} that {label!r} adds {said}; lower the coefficients, check the vectors, or load the model"
                " with dtype='float32'."
            )


def _check_sums(plan: Sequence[tuple[Any, int, Sequence[int], Tensor, Tensor]]) -> None:
    """Look at what half precision makes of the sums, before anything is changed: one look at the device for all."""
    infinite: list[Tensor] = []
    errors: list[Tensor] = []
    for layer, back, at, keys, values in plan:
        for cached, added in ((layer.keys, keys), (layer.values, values)):
            if cached.dtype == torch.float32:
                continue
            old = cached[torch.tensor(at, device=cached.device), :, -back]
            wanted = added.to(cached.device)
            realised = added_to(old, wanted)
            infinite.append((~realised.isfinite().all()).float().cpu())
            size = wanted.flatten(1).norm(dim=1)
            error = (realised - wanted).flatten(1).norm(dim=1) / size.clamp_min(torch.finfo(size.dtype).tiny)
            errors.append(torch.where(size > 0, error, 0).max().cpu())
    if not errors:
        return
    dtype = _name(plan[0][0].keys.dtype)
    if bool(torch.stack(infinite).any()):
        raise NotFiniteError(
            f"What is added to the cache makes it infinite in {dtype}; lower the coefficients or load the model with"
            " dtype='float32'."
        )
    worst = float(torch.stack(errors).max())
    if worst > ROUNDING:
        warnings.warn(
            f"The cache's dtype, {dtype}, is too coarse for so small an edit: in some layer what is really added is off"
            " by more than a tenth of what was asked for; kv.effective_dose tells by how much, layer by layer.",
            RoundingWarning,
            stacklevel=3,
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_slot(slot: SupportsIndex) -> int:
    """The slot as a Python integer.

    Args:
        slot: what is checked; numpy's whole numbers will do, too.

    Returns:
        The integer.

    Raises:
        ValueError: something that isn't a whole number.

    >>> check_slot(-1)
    -1
    """
    if isinstance(slot, bool) or not isinstance(slot, SupportsIndex):
        raise ValueError(f"The slot is {slot!r}; it must be a whole number, negative to count from the prompt's end.")
    return slot.__index__()


def slot_from_end(slot: int, length: int, row: int) -> int:
    """How far a slot lies from the end of a row of `length` cached tokens: 1 is the last.

    Args:
        slot: index into the row; negative counts from its end.
        length: cached tokens of the row.
        row: its number, for the error.

    Returns:
        A number from 1 to `length`.

    Raises:
        ValueError: the row has no such slot.

    >>> slot_from_end(0, 5, row=0), slot_from_end(-1, 5, row=0)
    (5, 1)
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
