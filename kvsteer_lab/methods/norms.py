"""Steering that keeps the length of what it steers: its strength is an angle."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..edits.base import CacheShape, SlotEdit, Slotted
from ..edits.given import finite_number
from ..edits.randomised import randomise, towards_random
from ..edits.scaling import scale
from ..models.model import Model
from ..vectors.kv import KVVectors


@dataclass(frozen=True)
class Turn(SlotEdit):
    """x -> |x| times the direction of x turned by an angle towards b, in the plane of both; never past b.

    Attributes:
        keys, values: `[layers, kv_heads, head_dim]`; zeros leave a head as it is.
        degrees: the angle; `None`: that of x + b, whose length is then x's.
        span, layers, heads, when, every: as in every operator.

    Raises:
        ValueError: an angle outside of [0, 180], NaN or infinity; when it is used: vectors of another model.

    Example:
        >>> import torch
        >>> Turn(torch.zeros(1, 1, 2), torch.tensor([[[0.0, 9.0]]]), 90).changed(
        ...     0, torch.zeros(1, 1, 2), torch.tensor([[[3.0, 0.0]]])
        ... )[1].abs().round().tolist()
        [[[0.0, 3.0]]]
    """

    keys: Float[Tensor, "layers kv_heads head_dim"]
    values: Float[Tensor, "layers kv_heads head_dim"]
    degrees: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.degrees is not None and not 0 <= finite_number("The angle", self.degrees) <= 180:
            raise ValueError(f"degrees={self.degrees!r} must be from 0 to 180.")
        if not (self.keys.isfinite().all() and self.values.isfinite().all()):
            raise ValueError("What is turned towards holds NaN or infinity; check the vectors.")

    def check_shape(self, shape: CacheShape) -> None:
        super().check_shape(shape)
        for name, part in (("keys", self.keys), ("values", self.values)):
            if tuple(part.shape) != shape.vectors:
                raise ValueError(
                    f"The {name} that are turned towards are {tuple(part.shape)}, but {shape.name} has {shape.vectors}."
                )

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        return self._turned(keys, self.keys[layer]), self._turned(values, self.values[layer])

    def _turned(self, old: Slotted, towards: Float[Tensor, "kv_heads head_dim"]) -> Slotted:
        size, b = old.norm(dim=-1, keepdim=True), towards[:, None].to(old)
        if self.degrees is None:
            new = old + b
            return torch.where(b.any(-1, keepdim=True), torch.nn.functional.normalize(new, dim=-1) * size, old)
        x, u = torch.nn.functional.normalize(old, dim=-1), torch.nn.functional.normalize(b, dim=-1)
        cosine = (x * u).sum(-1, keepdim=True).clamp(-1, 1)
        across = torch.nn.functional.normalize(u - cosine * x, dim=-1)
        angle = torch.acos(cosine).clamp(max=math.radians(self.degrees))
        return torch.where(b.any(-1, keepdim=True), size * (angle.cos() * x + angle.sin() * across), old)


@scale.register
def _(edit: Turn, factor: float) -> Turn:
    """By a part of the angle; where the angle is that of x + b, by a part of b."""
    if edit.degrees is not None:
        return replace(edit, degrees=min(180.0, factor * edit.degrees))
    return replace(edit, keys=factor * edit.keys, values=factor * edit.values)


@randomise.register
def _(edit: Turn, model: Model, seed: int) -> Turn:
    """By the same angle, towards random vectors of the same norms."""
    return towards_random(edit, seed)


def norm_preserving(vectors: KVVectors, ck: float, cv: float) -> Turn:
    """Steer the last slot and give its keys and values their old norms back, head by head (our own): x <- |x| (x +
    c v) / |x + c v|. Cost: that of cache steering.

    Args:
        vectors: v, with keys as they are cached.
        ck, cv: coefficients of keys and values.

    Returns:
        An operator for `kv.CacheEdits`.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?"], ["Sum?"])
        >>> vectors = kv.extract(kv.load("tiny"), pairs, progress=False)
        >>> kv.methods.norm_preserving(vectors, 0.0, 2.0).degrees is None
        True
    """
    return Turn(ck * _cached(vectors).keys, cv * vectors.values)


def turned(vectors: KVVectors, degrees: float) -> Turn:
    """Turn the last slot's values by an angle towards v, head by head, in the plane of both: the strength is
    the angle (after angular steering, Vu and Nguyen 2025, arXiv 2510.26243, which turns the residual stream within one
    fixed plane). Cost: that of cache steering.

    Args:
        vectors: v; its keys aren't used.
        degrees: the angle, 0 to 180; never past v.

    Returns:
        An operator for `kv.CacheEdits`.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?"], ["Sum?"])
        >>> kv.methods.turned(kv.extract(kv.load("tiny"), pairs, progress=False), 30).degrees
        30
    """
    return Turn(torch.zeros_like(vectors.keys), vectors.values, degrees)


def _cached(vectors: KVVectors) -> KVVectors:
    if vectors.card.keys == "position_free" and vectors.keys.any():
        raise ValueError(
            "Position-free keys belong to no slot; extract with keys='post_rope' to turn keys, or use ck=0 with values"
            " alone."
        )
    return vectors
