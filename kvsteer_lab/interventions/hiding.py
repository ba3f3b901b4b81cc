"""Attention knock-out: some heads don't read a cached slot while the answer is written (Geva et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import torch

from ..edits.hiding import HiddenSlot
from ..edits.slots import check_slot
from ..models.attention import query_heads
from ..models.model import Model
from ..vectors.indices import check_indices
from .base import Intervention


@dataclass(frozen=True)
class HideSlot(Intervention):
    """Bar query heads from reading one cached slot. The cache itself stays as it is, and so does what the prompt's own
    tokens read.

    Alone it acts on prompts as they are; `kv.Together(steering, kv.HideSlot(...))` acts on steered ones. Rows that hide
    different things are decoded together.

    Args:
        layers: hide it from all heads of exactly these layers; `None`, without `heads`: from everything.
        heads: hide it from exactly these (layer, query head) pairs instead.
        first: the step from which on it is hidden; step 0 is the offset token, which makes the first new token.
        end: the step at which it is shown again; `None`: never.
        slot: which slot of the prompt; negative counts from its end.
        name: the label, if it isn't to be made from the settings.

    Raises:
        ValueError: layers as well as heads, an empty list of them, or an end that isn't after the first step. When it
            is used: a layer or head that the model hasn't got, or a model whose attention can't be looked into.

    Example:
        >>> import kvsteer_lab as kv
        >>> hidden = kv.HideSlot(heads=[(1, 3)], first=1)
        >>> hidden.label
        'slot hidden heads=1.3 from step 1'
        >>> hidden.barred(kv.load("tiny")).nonzero().tolist()
        [[1, 3]]
    """

    layers: Iterable[int] | None = None
    heads: Iterable[tuple[int, int]] | None = None
    first: int = 0
    end: int | None = None
    slot: int = -1
    name: str | None = None

    def __post_init__(self) -> None:
        if self.layers is not None and self.heads is not None:
            raise ValueError("A slot is hidden from whole layers or from single heads; pass layers or heads, not both.")
        for what in ("layers", "heads"):
            chosen = getattr(self, what)
            if chosen is not None:
                object.__setattr__(self, what, _listed(chosen))
                if not getattr(self, what):
                    raise ValueError(
                        f"{what} is empty, so nothing would be hidden; name some, or leave {what} out to hide the slot"
                        " from everything."
                    )
        for name in ("first", "end"):
            step = getattr(self, name)
            if isinstance(step, bool) or not isinstance(step, SupportsIndex | None):
                raise ValueError(f"{name}={step!r} is not a step; steps are whole numbers, counted from 0.")
        if self.first < 0 or (self.end is not None and self.end <= self.first):
            raise ValueError(
                f"There is no step from {self.first} to before {self.end}; first must be 0 or above, and end beyond it."
            )
        object.__setattr__(self, "slot", check_slot(self.slot))

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        parts = [f"slot {self.slot} hidden" if self.slot != -1 else "slot hidden"]
        parts += [f"layers={','.join(map(str, self.layers))}"] if self.layers is not None else []
        parts += (
            [f"heads={','.join(f'{layer}.{head}' for layer, head in self.heads)}"] if self.heads is not None else []
        )
        parts += [f"from step {self.first}"] if self.first else []
        parts += [f"to step {self.end - 1}"] if self.end is not None else []
        return " ".join(parts)

    def check(self, model: Model) -> None:
        self.barred(model)

    def barred(self, model: Model) -> torch.Tensor:
        """`[layers, heads]`: which heads don't read the slot."""
        n = query_heads(model.hf)
        barred = torch.zeros(model.n_layers, n, dtype=torch.bool)
        if self.heads is None:
            barred[check_indices("layer", self.layers, model.n_layers)] = True
            return barred
        pairs = list(self.heads)
        wrong = [pair for pair in pairs if not isinstance(pair, tuple) or len(pair) != 2]
        if wrong:
            raise ValueError(f"heads must be (layer, query head) pairs, such as (1, 3), not {wrong[0]!r}.")
        layers = check_indices("layer", [layer for layer, _ in pairs], model.n_layers)
        check_indices("query head", [head for _, head in pairs], n)
        for layer in layers:
            barred[layer, [head for at, head in pairs if at == layer]] = True
        return barred

    def hidden(self, model: Model, lengths: Sequence[int]) -> list[tuple[HiddenSlot, ...]]:
        return [(HiddenSlot(self.barred(model), self.slot, self.first, self.end),)] * len(lengths)


def _listed(chosen: Any) -> tuple[Any, ...]:
    """Layers or pairs in ascending order, as Python numbers whatever library they come from."""
    given = np.asarray(chosen).tolist() if isinstance(chosen, np.ndarray) else chosen
    each = [given] if isinstance(given, SupportsIndex) else given
    return tuple(sorted({tuple(map(_whole, x)) if isinstance(x, tuple | list) else _whole(x) for x in each}))


def _whole(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, SupportsIndex):
        raise ValueError(f"Layers and heads are named by whole numbers, not by {number!r}.")
    return number.__index__()
