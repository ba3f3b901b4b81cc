"""KV cache steering itself: one edit of one slot (Belitsky et al. 2025): x_l[slot] += c S_l, once, after prefill."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from ..edits.cache import CacheDelta, check_slot
from ..models.model import Model
from ..vectors.kv import KVVectors, check_indices
from .base import Intervention


@dataclass(frozen=True)
class CacheSteering(Intervention):
    """Add `ck` times the key vectors and `cv` times the value vectors to one cached slot, after prefill.

    Args:
        vectors: what to add at coefficient 1.
        ck, cv: coefficients of keys and values. They mean little by themselves: see `vectors.relative_to`.
        layers: exactly these layers; `None`: layer 1 and above, as in the paper.
        heads: exactly these KV heads; `None`: all.
        slot: which slot of the prompt; negative counts from its end.
        name: the label, if the one made from the settings won't do.

    Raises:
        ValueError: a coefficient that is NaN or infinite, a layer or head out of range, a slot that is no whole number.
    """

    vectors: KVVectors = field(repr=False)
    ck: float
    cv: float
    layers: Iterable[int] | None = None
    heads: Iterable[int] | None = None
    slot: int = -1
    name: str | None = None

    def __post_init__(self) -> None:
        for key, value in (("ck", self.ck), ("cv", self.cv)):
            if not math.isfinite(value):
                raise ValueError(f"The coefficient {key} is {value}; it must be a finite number.")
        check_slot(self.slot)
        object.__setattr__(
            self,
            "layers",
            None if self.layers is None else tuple(check_indices("layer", self.layers, self.vectors.n_layers)),
        )
        object.__setattr__(
            self,
            "heads",
            None if self.heads is None else tuple(check_indices("KV head", self.heads, self.vectors.n_kv_heads)),
        )

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        parts = [f"steered {self.vectors.card.recipe.get('style', '')}".strip(), f"ck={self.ck:g}", f"cv={self.cv:g}"]
        parts += [
            f"{what}={','.join(map(str, chosen))}"
            for what, chosen in (("layers", self.layers), ("heads", self.heads))
            if chosen is not None
        ]
        parts += [f"slot={self.slot}"] if self.slot != -1 else []
        return " ".join(parts)

    @property
    def scope(self) -> tuple[int, ...]:
        """The layers that are edited."""
        return tuple(range(1, self.vectors.n_layers)) if self.layers is None else tuple(self.layers)

    def check(self, model: Model) -> None:
        self.vectors.check_fits(model)

    def deltas(self, model: Model, lengths: Sequence[int]) -> list[tuple[CacheDelta, ...]]:
        chosen = self.vectors.only(self.scope, self.heads)
        keys, values = self.ck * chosen.keys, self.cv * chosen.values
        if self.vectors.card.keys == "post_rope" or not model.rotary.rotates:
            return [(CacheDelta(keys, values, self.slot),)] * len(lengths)
        slots = torch.tensor([n + self.slot if self.slot < 0 else self.slot for n in lengths])
        rotated = model.rotary.rotate(keys.expand(len(lengths), *keys.shape), slots)
        return [(CacheDelta(k, values, self.slot),) for k in rotated]
