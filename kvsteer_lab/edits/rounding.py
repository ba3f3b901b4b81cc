"""What half precision makes of an addition.

What is added is summed in float32 and cast once to the cache's dtype. That has two ends: a large value overflows, which
is an error, and a small one is rounded away against the slot's own value, which is a warning; `added_to` says what
arrives.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.finite import NotFiniteError
from .addition import Add

ROUNDING = 0.1
"""The relative error of what is added to a layer from which on a warning is given."""


class RoundingWarning(UserWarning):
    """The cache's dtype is too coarse for what is added to it."""


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


def check_cast(delta: Add, dtype: torch.dtype, label: str) -> None:
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


def check_sums(plan: Sequence[tuple[Any, int, Sequence[int], Tensor, Tensor]]) -> None:
    """Look at what half precision makes of the sums, before anything is changed: one look at the device for all.

    Args:
        plan: per layer and slot: the cache's layer, how far the slot lies from the end, the rows, and the keys and
            values that they get, float32 `[rows, kv_heads, head_dim]`.

    Raises:
        NotFiniteError: a sum that is infinite in the cache's dtype.

    Warns:
        RoundingWarning: of `apply`'s caller, where the dtype takes up less than nine tenths of an edit.
    """
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
