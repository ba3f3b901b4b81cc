"""What matched controls keep: masks and norms of the vectors that they control."""

from __future__ import annotations

from ..vectors.kv import KVVectors
from ..vectors.randomised import rescale

_NOISE = 1e-6  # of a layer's norm: less is rounding, which rescaling would turn into a direction


def match_norms(vectors: KVVectors, own: KVVectors) -> KVVectors:
    """`vectors`, masked as `own` is, with the norm of each layer's keys and values in `own`."""
    parts = []
    for name in ("keys", "values"):
        part, target = getattr(vectors, name), getattr(own, name)
        part = part * (target.norm(dim=-1, keepdim=True) > 0)
        empty = part.flatten(1).norm(dim=-1) < _NOISE * target.flatten(1).norm(dim=-1)
        if empty.any():
            raise ValueError(
                f"The control has no {name} in layer {int(empty.nonzero()[0])}, where the steering has some; nothing"
                " can be rescaled there."
            )
        parts.append(rescale(part, target))
    return KVVectors(parts[0], parts[1], vectors.card.after("rescaled to each layer's norm"))
