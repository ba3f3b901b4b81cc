"""Contrastive pairs of one layer as points in their first two principal components."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Components:
    """Points of one layer's keys or values.

    Attributes:
        layer, part: which layer's `"keys"` or `"values"`.
        points: one row a pair: `set`, `style`, `pair`, `x`, `y`, `text` (its question).
        explained: the two components' shares of the variance.
    """

    layer: int
    part: str
    points: pd.DataFrame
    explained: tuple[float, float]

    def table(self) -> pd.DataFrame:
        """The points without their texts, with `explained_x` and `explained_y`."""
        return self.points.drop(columns="text").assign(explained_x=self.explained[0], explained_y=self.explained[1])
