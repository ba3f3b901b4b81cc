"""Planning what a row's edits make of its cache, one after the other, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from ..models.finite import NotFiniteError
from .base import SlotEdit
from .gates import LastSlot, opens


@dataclass(frozen=True)
class NewSlots:
    """What is to be written into one layer of one row.

    Attributes:
        layer: the cache's layer.
        row: the row.
        columns: which of its columns.
        keys, values: their new content, `[kv_heads, columns, head_dim]`, in the cache's dtype.
    """

    layer: Any
    row: int
    columns: list[int]
    keys: Float[Tensor, "kv_heads columns head_dim"]
    values: Float[Tensor, "kv_heads columns head_dim"]

    def write(self) -> None:
        """Write it."""
        self.layer.keys[self.row, :, self.columns] = self.keys
        self.layer.values[self.row, :, self.columns] = self.values


def plan(cache: DynamicCache, programs: Mapping[int, Sequence[SlotEdit]], lengths: Sequence[int]) -> list[NewSlots]:
    """What the edits of some rows come to: float32 throughout, and cast once at the end.

    Args:
        cache: left as it is.
        programs: by row, resolved edits in their order.
        lengths: each row's number of cached tokens.

    Returns:
        What is to be written.

    Raises:
        ValueError: a gate that raises or gives no truth value, or a span that lies outside a layer's sliding window.
        NotFiniteError: the result is NaN or infinite in the cache's dtype.

    >>> import kvsteer_lab as kv
    >>> cache = kv.load("tiny").prefill("How many?")
    >>> len(plan(cache, {0: [kv.edits.Map(0.5, layers=[1, 2])]}, [cache.get_seq_length()]))
    2
    """
    found = []
    for row, program in programs.items():
        edits = _open(cache, row, program)
        for index, layer in enumerate(cache.layers):
            acting = [edit for edit in edits if edit.acts_on(index)]
            if acting:
                found.append(_edited(layer, index, row, acting, lengths[row]))
    if any(not (new.keys.isfinite().all() and new.values.isfinite().all()) for new in found):
        dtype = str(cache.layers[0].keys.dtype).removeprefix("torch.")
        raise NotFiniteError(
            f"An edit makes the cache NaN or infinite in {dtype}; lower its size or load the model with"
            " dtype='float32'."
        )
    return found


def _edited(layer: Any, index: int, row: int, edits: Sequence[SlotEdit], length: int) -> NewSlots:
    held = layer.keys.shape[2]
    keys, values = layer.keys[row].float().clone(), layer.values[row].float().clone()
    touched: set[int] = set()
    for edit in edits:
        columns = [held - back for back in edit.backs(length) if back <= held]  # dropped slots are never read again
        if not columns:
            raise ValueError(
                f"The span {edit.span!r} lies outside layer {index}'s sliding window of {held + 1} tokens; leave that"
                " layer out (layers=...) or choose later slots."
            )
        heads = list(range(keys.shape[0]) if edit.heads is None else edit.heads)
        new = edit.changed(index, keys[:, columns], values[:, columns])
        for old, part in ((keys, new[0]), (values, new[1])):
            old[torch.tensor(heads)[:, None], torch.tensor(columns)] = part[heads]
        touched |= set(columns)
    at = sorted(touched)
    return NewSlots(layer, row, at, keys[:, at].to(layer.keys), values[:, at].to(layer.values))


def _open(cache: DynamicCache, row: int, program: Sequence[SlotEdit]) -> list[SlotEdit]:
    """The edits whose gates are open; every gate sees the cache before any edit."""
    if all(edit.when is None for edit in program):
        return list(program)
    keys, values = (
        torch.stack([getattr(x, part)[row, :, -1].float().cpu() for x in cache.layers]) for part in ("keys", "values")
    )
    last = LastSlot(keys, values)
    return [edit for edit in program if edit.when is None or opens(edit.when, last, row)]
