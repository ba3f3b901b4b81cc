"""How much attention the heads of each layer pay to the steered slot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerAttention:
    """Attention weights of one layer's query heads, averaged over the heads.

    Attributes:
        layer: which layer.
        first: weight on the steered slot while the offset token is read.
        slot: weight on the steered slot, averaged over the steps.
        other: mean weight on any other slot, averaged over the steps.
        head, head_slot: the query head with the largest weight on the slot, and that weight.
        heads: each query head's weight on the slot, averaged over the steps.
    """

    layer: int
    first: float
    slot: float
    other: float
    head: int
    head_slot: float
    heads: tuple[float, ...] = ()


@dataclass(frozen=True)
class ArmAttention:
    """What is known of one arm of a comparison.

    Attributes:
        arm: its name.
        steps: how many tokens were read.
        layers: one entry a layer.
    """

    arm: str
    steps: int
    layers: tuple[LayerAttention, ...]
