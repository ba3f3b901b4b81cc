"""The relative strength of a steering: what is added to a slot, relative to what is there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dose:
    """|c S| / |own| per steered layer, all KV heads of a layer at once; 0 where a part isn't steered."""

    layers: tuple[int, ...]
    keys: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def mean_keys(self) -> float:
        """Averaged over the steered layers."""
        return sum(self.keys) / len(self.keys)

    @property
    def mean_values(self) -> float:
        """Averaged over the steered layers."""
        return sum(self.values) / len(self.values)
