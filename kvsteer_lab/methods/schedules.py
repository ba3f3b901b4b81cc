"""Steering layers by different amounts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from .differences import Vectors, each_part


def scheduled(vectors: Vectors, weights: Sequence[float] | Callable[[float], float]) -> Vectors:
    """Vectors times a weight for each layer (our own): v_l w_l. Cost: O(d).

    Args:
        vectors: of keys and values or of the residual stream.
        weights: one a layer, or a function of the depth, 0 for the first layer and 1 for the last: `lambda x: x` rises,
            `lambda x: 4 * x * (1 - x)` favours the middle.

    Raises:
        ValueError: not one weight a layer, or one that is NaN or infinite.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?"], ["Sum?"])
        >>> vectors = kv.extract(kv.load("tiny"), pairs, progress=False)
        >>> rising = kv.methods.scheduled(vectors, lambda depth: depth)
        >>> bool((rising.values[-1] == vectors.values[-1]).all()), bool(rising.values[0].any())
        (True, False)
    """
    n = vectors.n_layers
    given: Any = weights if callable(weights) or isinstance(weights, Iterable) else [weights]
    chosen = [given(i / max(1, n - 1)) for i in range(n)] if callable(given) else list(given)
    try:
        factors = torch.tensor([float(w) for w in chosen])
    except (TypeError, ValueError):
        factors = torch.empty(0)
    if len(factors) != n or not factors.isfinite().all():
        raise ValueError(f"A schedule has one finite weight for each of {n} layers, not {chosen}.")
    said = ", ".join(f"{w:g}" for w in factors.tolist())
    return each_part(vectors, lambda v: v * factors.view(-1, *[1] * (v.ndim - 1)), f"layers times {said}")
