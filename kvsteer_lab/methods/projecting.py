"""Projecting a direction out."""

from __future__ import annotations

import torch
from torch import Tensor

from ..vectors.kv import KVVectors
from .differences import Vectors, each_part


def without(vectors: Vectors, other: Vectors) -> Vectors:
    """Vectors with another direction projected out, for each layer and head: v - (v.u) u / |u|^2 (linear algebra). With
    u the mean difference of several styles, it takes out what all of them share, the "format" direction. Cost: O(d).

    Args:
        vectors: what is kept, of keys and values or of the residual stream.
        other: u, of the same kind; where it is zero, nothing is taken out.

    Returns:
        Vectors of the same kind.

    Raises:
        ValueError: vectors of different kinds or shapes.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> vectors = kv.extract(kv.load("tiny"), pairs, progress=False)
        >>> bool(kv.methods.without(vectors, vectors).values.abs().max() < 1e-5)
        True
    """
    parts = ("keys", "values") if isinstance(vectors, KVVectors) else ("residuals",)
    shapes = [[tuple(getattr(each, part, torch.empty(0)).shape) for part in parts] for each in (vectors, other)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"The vectors are {shapes[0]} and {shapes[1]}; both must be of one kind and of one model.")
    towards = iter([getattr(other, part) for part in parts])  # `each_part` goes through the parts in this order

    def rest(v: Tensor) -> Tensor:
        u = next(towards)
        return v - (v * u).sum(-1, keepdim=True) * u / u.pow(2).sum(-1, keepdim=True).clamp_min(1e-12)

    return each_part(vectors, rest, "another direction projected out")
