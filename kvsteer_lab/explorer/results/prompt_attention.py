"""How much attention each slot of the prompt gets where the first token of the reply is decided."""

from __future__ import annotations

from dataclasses import dataclass

from .comparison import Comparison


@dataclass(frozen=True)
class SlotAttention:
    """Attention weights on one slot of the prompt, in one pass over one token.

    Attributes:
        mean: over all layers and query heads.
        layer, head: where the weight is largest.
        most: the weight there.
    """

    mean: float
    layer: int
    head: int
    most: float


@dataclass(frozen=True)
class PromptAttention:
    """What the token that is read right after the prompt attends to.

    Attributes:
        comparison: whose prompt it is.
        reader: the text of that token.
        arms: for each arm that reads this prompt, an entry a slot.
    """

    comparison: Comparison
    reader: str
    arms: dict[str, tuple[SlotAttention, ...]]
