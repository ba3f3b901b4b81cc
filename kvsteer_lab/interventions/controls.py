"""Controls: what any vector of that size does."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..vectors import KVVectors
from .cache import CacheSteering


@dataclass(frozen=True)
class RandomControl(CacheSteering):
    """Cache steering with a random vector; it remembers what it controls."""

    steering: str = ""

    @property
    def control_of(self) -> str | None:
        return self.steering

    @property
    def control_kind(self) -> str | None:
        return "random"


def random_controls(steering: CacheSteering, n: int = 40, seed: int = 0) -> list[RandomControl]:
    """The same steering with random vectors of the same norm, per layer, in keys and in values.

    A handful passes by luck: with R controls the smallest p-value is 1 / (R + 1), so take at least 39.

    Args:
        steering: what is controlled; its layers, heads, slot and coefficients are kept.
        n: how many.
        seed: control i is drawn with `seed + i`.
    """
    if n < 1:
        raise ValueError(f"The number of controls must be at least 1, not {n}.")
    own = steering.vectors.only(steering.scope, steering.heads)
    kept = dict(ck=steering.ck, cv=steering.cv, layers=steering.layers, heads=steering.heads, slot=steering.slot, steering=steering.label)
    return [RandomControl(random_like(own, seed + i), name=f"random {seed + i} for {steering.label}", **kept) for i in range(n)]  # type: ignore[arg-type]


def random_like(vectors: KVVectors, seed: int) -> KVVectors:
    """Gaussian directions with the norm of each layer's keys and values; zeros stay zeros."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = (_random_direction(part, generator) for part in (vectors.keys, vectors.values))
    return KVVectors(keys, values, replace(vectors.card, history=(*vectors.card.history, f"random, seed {seed}")))


def _random_direction(part: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(part.shape, generator=generator) * (part.norm(dim=-1, keepdim=True) > 0)
    size = noise.flatten(1).norm(dim=-1).clamp_min(1e-12)
    return noise * (part.flatten(1).norm(dim=-1) / size)[:, None, None]
