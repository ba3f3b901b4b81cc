"""What has a coefficient: it can be done by degrees, its relative strength measured, and matched random controls drawn
for it. Steering is of this kind, and so are edits of the cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self, SupportsIndex

import pandas as pd

from ..models.model import Model
from ..models.prompts import Prompt
from .base import Intervention


class Scaled(Intervention, ABC):
    """An intervention with a coefficient.

    Attributes:
        coefficient: how much of it is done; of cache steering, the coefficient of the values.
        name: the label, if it isn't made from the settings.
    """

    coefficient: float
    name: str | None

    @property
    def style(self) -> str | None:
        """The style that is aimed at, if it is known."""
        return None

    @abstractmethod
    def check_adds(self) -> None:
        """Refuse what does nothing at any coefficient."""

    @abstractmethod
    def at(self, coefficient: float, name: str | None = None) -> Self:
        """The same at another coefficient.

        Args:
            coefficient: the new one.
            name: the new label; `None`: one made from the settings.
        """

    @abstractmethod
    def unit_doses(self, model: Model, prompts: Prompt | Sequence[Prompt]) -> pd.Series:
        """The relative strength at coefficient 1 of each part that is edited, relative to what is there.

        Args:
            model: the model that is edited.
            prompts: prompts whose edited slots are measured.
        """

    def unit_dose(self, model: Model, prompts: Prompt | Sequence[Prompt]) -> float:
        """The relative strength that a coefficient of 1 amounts to: that of the values, or of the residual stream.
        Multiply it by a coefficient for that one's relative strength.

        Args:
            model: the model to be steered.
            prompts: prompts whose steered slot is measured.
        """
        doses = self.unit_doses(model, prompts)
        return float(doses["values"] if "values" in doses else doses["residuals"])

    def controls(self, n: int, seed: int = 0) -> Sequence[Scaled]:
        """Matched random controls: the same with something about it random, random vectors of the same norms for
        instance. A control remembers what it controls.

        A handful passes by luck: with R controls the smallest p-value is 1 / (R + 1), so take at least 39.

        Args:
            n: how many; 0 gives none.
            seed: control i is drawn with `seed + i`.

        Raises:
            ValueError: a negative number of controls.

        Example:
            >>> import torch
            >>> import kvsteer_lab as kv
            >>> from kvsteer_lab.vectors import Card
            >>> card = Card("m", "llama", "", "torch.float32", "post_rope", None, None, 1, {"style": "stepwise"})
            >>> vectors = kv.KVVectors(torch.ones(3, 2, 4), torch.ones(3, 2, 4), card)
            >>> steering = kv.CacheSteering(vectors, ck=0, cv=6, name="mine")
            >>> steering.controls(0), [control.label for control in steering.controls(2, seed=5)]
            ([], ['random 5 for mine', 'random 6 for mine'])
        """
        if not isinstance(n, SupportsIndex) or n.__index__() < 0:
            raise ValueError(f"The number of controls must be 0 or a positive whole number, not {n}.")
        return [self.random_control(seed + i) for i in range(n)]

    @abstractmethod
    def random_control(self, seed: int) -> Scaled:
        """One matched random control, drawn with `seed`."""
