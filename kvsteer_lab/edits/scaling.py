"""How large an edit is: the same edit, a given number of times as large."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor

from .addition import Add
from .base import CacheEdit, SlotEdit
from .displaced import Displaced
from .operators import Erase, Insert, Map


@singledispatch
def scale(edit: CacheEdit, factor: float) -> CacheEdit:
    """The same edit, `factor` times as large: x -> x + s (f(x) - x), written in the edit's own terms where it can be.
    1 leaves it as it is, 0 leaves every slot as it is. A bank is weighed: attention counts it `factor` times as often.

    Args:
        edit: any operator but `Erase`.
        factor: s.

    Returns:
        An edit of the same span, layers, heads and gate.

    Raises:
        ValueError: `Erase`, which is done or not; a bank with a negative weight.

    >>> import kvsteer_lab as kv
    >>> scale(kv.edits.Map(0.5), 0.5).matrix
    0.75
    """
    if not isinstance(edit, SlotEdit) or isinstance(edit, Erase):
        raise ValueError(f"{type(edit).__name__} is done or not, it has no size; leave its coefficient at 1.")
    return Displaced(edit, factor)


@scale.register
def _(edit: Add, factor: float) -> CacheEdit:
    return replace(edit, keys=factor * edit.keys, values=factor * edit.values)


@scale.register
def _(edit: Map, factor: float) -> CacheEdit:
    if isinstance(edit.matrix, Tensor):
        eye = torch.eye(edit.matrix.shape[-1])
        matrix: float | Tensor = eye + factor * (edit.matrix - eye)
    else:
        matrix = 1 + factor * (edit.matrix - 1)
    return replace(edit, matrix=matrix, shift=None if edit.shift is None else factor * edit.shift)


@scale.register
def _(edit: Insert, factor: float) -> CacheEdit:
    return replace(edit, weight=factor * edit.weight)


@scale.register
def _(edit: Displaced, factor: float) -> CacheEdit:
    return Displaced(edit.edit, factor * edit.factor, edit.seed)
