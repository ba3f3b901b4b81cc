"""Activation steering: a direction is added to the residual stream, once or at every token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..edits.residual import ResidualDelta
from ..models.layers import decoder_layers
from ..models.model import Model
from ..models.prompts import offset_token
from ..vectors.activation import ActivationVectors
from ..vectors.kv import check_indices
from .base import Intervention


@dataclass(frozen=True)
class ActivationSteering(Intervention):
    """Add `coefficient` times a difference of means to the residual stream behind one layer: h_l += c r_l (Turner et
    al. 2023; Rimsky et al. 2024).

    Four ways to run it, told by the label. One-shot edits the prompt's last token during prefill, at the slot that
    cache steering edits; every token edits that slot and all after it, generated ones included. Each with the cache, or
    with everything computed anew for each token, as in the comparison of Belitsky et al. (2025): the same texts, at
    another cost.

    Args:
        vectors: what to add at coefficient 1.
        layer: behind which decoder layer, counted from 0; several, each with its own vector. Behind the last layer
            nothing attends to it: a one-shot edit there does nothing unless the answer begins right after it, without
            an offset token.
        coefficient: means little by itself: see `vectors.relative_to`.
        every_token: at every token from the slot on, or at the slot alone.
        cache: whether decoding reads the cache.
        offset: the token that follows the prompt: `None`: the run's own, `""`: none, or a text or id of its own.
        name: the label, if the one made from the settings won't do.

    Raises:
        ValueError: a coefficient that is NaN or infinite, no layer, or one out of range.
    """

    vectors: ActivationVectors = field(repr=False)
    layer: int | Iterable[int]
    coefficient: float
    every_token: bool = False
    cache: bool = True
    offset: str | int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.coefficient):
            raise ValueError(f"The coefficient is {self.coefficient}; it must be a finite number.")
        chosen = [self.layer] if isinstance(self.layer, int) else self.layer
        layers = tuple(check_indices("layer", chosen, self.vectors.n_layers))
        if not layers:
            raise ValueError("Activation steering needs a layer; pass layer=12, say, or several.")
        object.__setattr__(self, "layer", layers if len(layers) > 1 else layers[0])

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose output is edited."""
        return (self.layer,) if isinstance(self.layer, int) else tuple(self.layer)

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        parts = [
            f"activation {self.vectors.card.recipe.get('style', '')}".strip(),
            f"layer={','.join(map(str, self.layers))}",
            f"c={self.coefficient:g}",
        ]
        parts += ["every token" if self.every_token else "one-shot", f"cache {'on' if self.cache else 'off'}"]
        parts += [] if self.offset is None else ["no offset" if self.offset == "" else f"offset={self.offset!r}"]
        return " ".join(parts)

    @property
    def uses_cache(self) -> bool:
        return self.cache

    def check(self, model: Model) -> None:
        decoder_layers(model.hf)
        self.vectors.check_fits(model)

    def offset_id(self, tokenizer: Any, offset: int | None) -> int | None:
        if self.offset is None:
            return offset
        return None if self.offset == "" else offset_token(tokenizer, self.offset)

    def residuals(self, model: Model, lengths: Sequence[int]) -> list[tuple[ResidualDelta, ...]]:
        added = torch.zeros_like(self.vectors.residuals, dtype=torch.float32)
        for layer in self.layers:
            added[layer] = self.coefficient * self.vectors.residuals[layer]
        return [(ResidualDelta(added, onward=self.every_token),)] * len(lengths)


@dataclass(frozen=True)
class ActivationControl(ActivationSteering):
    """Activation steering with a random direction.

    Args:
        steering: the label of what it controls.
    """

    steering: str = ""

    @property
    def control_of(self) -> str | None:
        return self.steering

    @property
    def control_kind(self) -> str | None:
        return "random"


def random_activation_controls(steering: ActivationSteering, n: int = 40, seed: int = 0) -> list[ActivationControl]:
    """The same activation steering with random directions of the same norm at each layer.

    A handful passes by luck: with R controls the smallest p-value is 1 / (R + 1), so take at least 39.

    Args:
        steering: what is controlled; all but its vectors is kept.
        n: how many.
        seed: control i is drawn with `seed + i`.

    Raises:
        ValueError: fewer than one control.
    """
    if n < 1:
        raise ValueError(f"The number of controls must be at least 1, not {n}.")
    return [
        ActivationControl(
            random_directions(steering.vectors, seed + i),
            steering.layers,
            steering.coefficient,
            every_token=steering.every_token,
            cache=steering.cache,
            offset=steering.offset,
            name=f"random {seed + i} for {steering.label}",
            steering=steering.label,
        )
        for i in range(n)
    ]


def random_directions(vectors: ActivationVectors, seed: int) -> ActivationVectors:
    """Gaussian directions with the norm of each layer's vector; zeros stay zeros."""
    noise = torch.randn(vectors.residuals.shape, generator=torch.Generator().manual_seed(seed))
    size = vectors.residuals.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return replace(
        vectors,
        residuals=noise * size,
        card=replace(vectors.card, history=(*vectors.card.history, f"random, seed {seed}")),
    )
