"""Keys or values alone."""

from __future__ import annotations

import torch

from ..vectors.kv import KVVectors


def values_only(vectors: KVVectors) -> KVVectors:
    """Vectors whose keys are zero: what is read at the slot changes, how much it is read doesn't (c_k = 0 is what the
    paper's authors chose in 23 of the 24 settings that they released). Cost: none.

    Args:
        vectors: of both.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?"], ["Sum?"])
        >>> bool(kv.methods.values_only(kv.extract(kv.load("tiny"), pairs, progress=False)).keys.any())
        False
    """
    card = vectors.card.after("values only")
    return KVVectors(torch.zeros_like(vectors.keys), vectors.values, card)


def keys_only(vectors: KVVectors) -> KVVectors:
    """Vectors whose values are zero: how much the slot is read changes, what is read there doesn't (the paper's c_v =
    0). Cost: none.

    Args:
        vectors: of both.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?"], ["Sum?"])
        >>> bool(kv.methods.keys_only(kv.extract(kv.load("tiny"), pairs, progress=False)).values.any())
        False
    """
    card = vectors.card.after("keys only")
    return KVVectors(vectors.keys, torch.zeros_like(vectors.values), card)
