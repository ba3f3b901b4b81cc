"""Random vectors of the same norms, and other vectors rescaled to them: what matched controls add."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from .activation import ActivationVectors
from .kv import KVVectors

Vectors = TypeVar("Vectors", KVVectors, ActivationVectors)


def random_like(vectors: Vectors, seed: int) -> Vectors:
    """Gaussian directions with the norm of each layer's vectors, of keys and of values alike; zeros stay zeros.

    Args:
        vectors: whose norms are kept.
        seed: of the directions.

    Example:
        >>> import torch
        >>> import kvsteer_lab as kv
        >>> from kvsteer_lab.vectors import Card
        >>> card = Card("m", "llama", "", "torch.float32", None, None, None, 1)
        >>> vectors = kv.ActivationVectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), card)
        >>> [round(float(norm), 4) for norm in random_like(vectors, seed=0).residuals.norm(dim=-1)]
        [5.0, 0.0]
    """
    generator = torch.Generator().manual_seed(seed)
    card = vectors.card.after(f"random, seed {seed}")
    if isinstance(vectors, KVVectors):
        keys, values = (_random_direction(part, generator) for part in (vectors.keys, vectors.values))
        return KVVectors(keys, values, card)
    noise = torch.randn(vectors.residuals.shape, generator=generator)
    size = vectors.residuals.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return replace(vectors, residuals=noise * size, card=card)


def rescale(part: Tensor, target: Tensor) -> Tensor:
    """`part` with the norm that `target` has in each layer, all KV heads together: `[layers, kv_heads, head_dim]`.

    Example:
        >>> import torch
        >>> rescale(torch.ones(1, 1, 4), torch.full((1, 1, 4), 3.0)).tolist()
        [[[3.0, 3.0, 3.0, 3.0]]]
    """
    size = part.flatten(1).norm(dim=-1).clamp_min(1e-12)
    return part * (target.flatten(1).norm(dim=-1) / size)[:, None, None]


def _random_direction(part: Tensor, generator: torch.Generator) -> Tensor:
    return rescale(torch.randn(part.shape, generator=generator) * (part.norm(dim=-1, keepdim=True) > 0), part)
