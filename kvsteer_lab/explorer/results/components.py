"""How well contrastive pairs agree, layer by layer, and those of one layer in their first two principal components."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Components:
    """Points of one layer's keys or values.

    Attributes:
        layer, part: which layer's `"keys"` or `"values"`.
        points: one row a pair: `set`, `style`, `pair`, `x`, `y`, `text` (its question).
        explained: the two components' shares of the variance.
        agreement: per set, for each layer the mean cosine of a pair's difference with the mean of the other pairs'
            differences; NaN where the sides of some pair don't differ.
        chance: the standard deviation of the cosine of two random directions there.
    """

    layer: int
    part: str
    points: pd.DataFrame
    explained: tuple[float, float]
    agreement: dict[str, tuple[float, ...]] = field(default_factory=dict)
    chance: float = 0.0

    def table(self) -> pd.DataFrame:
        """The points without their texts, with `explained_x` and `explained_y`."""
        return self.points.drop(columns="text").assign(explained_x=self.explained[0], explained_y=self.explained[1])
