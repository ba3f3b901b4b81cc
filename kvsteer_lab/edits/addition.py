"""`Add`, the operator of the paper: vectors added to cached keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .base import CacheShape, SlotEdit
from .given import float_array
from .slots import check_slot, slot_from_end
from .spans import find_slots
from .spans.spans import CachedPrompt


@dataclass(frozen=True)
class Add(SlotEdit):
    """x -> x + b: what is added to one slot of one row, or to every slot of a span; coefficients are folded in.

    Attributes:
        keys, values: float32 `[layers, kv_heads, head_dim]`.
        slot: index into the row's unpadded ids; negative counts from the end. A span takes its place.
        span, layers, heads, when, every: as in every operator.

    Raises:
        ValueError: keys or values that are no array, or a slot that isn't a whole number; when it is used: vectors of
            another model, NaN or infinity.

    >>> import kvsteer_lab as kv
    >>> import torch
    >>> kv.edits.Add(torch.zeros(4, 2, 32), torch.ones(4, 2, 32)).slot
    -1
    """

    keys: Float[Tensor, "layers kv_heads head_dim"]
    values: Float[Tensor, "layers kv_heads head_dim"]
    slot: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("keys", "values"):
            given = float_array(
                f"What is added to {part}", getattr(self, part), "an array [layers, kv_heads, head_dim]"
            )
            object.__setattr__(self, part, given)
        object.__setattr__(self, "slot", check_slot(self.slot))

    def check_shape(self, shape: CacheShape) -> None:
        super().check_shape(shape)
        check_addition(self, shape.vectors, 0)

    @property
    def plain(self) -> bool:
        """Whether it is one slot, with all layers and heads, no gate, and once."""
        bounded = self.span is not None or self.layers is not None or self.heads is not None
        return not (bounded or self.when is not None or self.every)

    def resolve(self, prompt: CachedPrompt, row: int) -> tuple[Add, ...]:
        if self.plain:
            return (self,)
        keys, values = self.keys, self.values
        if self.layers is not None or self.heads is not None:
            mask = torch.zeros(*keys.shape[:2], 1)
            layers = list(range(keys.shape[0]) if self.layers is None else self.layers)
            mask[torch.tensor(layers)[:, None], list(range(keys.shape[1]) if self.heads is None else self.heads)] = 1
            keys, values = keys * mask, values * mask
        slots = (self.slot,) if self.span is None else find_slots(self.span, prompt, row).numbers
        return tuple(Add(keys, values, slot, when=self.when) for slot in slots)

    def acts_on(self, layer: int) -> bool:
        return bool(self.keys[layer].any() or self.values[layer].any())

    def backs(self, length: int) -> tuple[int, ...]:
        return (slot_from_end(self.slot, length, 0),)

    def changed(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return keys + self.keys[layer][:, None].to(keys), values + self.values[layer][:, None].to(values)


CacheDelta = Add
"""The name of `Add` in release 0.1."""


def check_addition(delta: Add, shape: tuple[int, ...], row: int) -> None:
    """Refuse an addition that doesn't fit a cache.

    Args:
        delta: what is to be added.
        shape: of the cache: layers, KV heads, head width.
        row: which row it is for, for the error.

    Raises:
        ValueError: another shape, NaN or infinity.

    >>> check_addition(Add(torch.zeros(4, 2, 32), torch.ones(4, 2, 32)), (4, 2, 32), row=0)
    """
    for name, part in (("keys", delta.keys), ("values", delta.values)):
        if tuple(part.shape) != shape:
            raise ValueError(
                f"The {name} of row {row}'s delta are {tuple(part.shape)}, but the cache is {shape} (layers, KV heads,"
                " head width)."
            )
        if not torch.isfinite(part).all():
            raise ValueError(
                f"The {name} of row {row}'s delta hold NaN or infinity; check the coefficients and the vectors."
            )
