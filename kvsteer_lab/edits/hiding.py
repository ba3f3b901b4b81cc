"""Cached slots that some heads don't read, or read as if they stood there more or less than once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from ..models.attention import Attending


@dataclass(frozen=True, eq=False)
class HiddenSlot:
    """A slot of one row that some heads don't read, or count by a weight, while certain tokens are computed. The slot
    itself, and what the cache holds, stay as they are.

    Attributes:
        heads: `[layers, heads]`, which query heads they are.
        slot: index into the prompt's ids; negative counts from the end.
        first, end: the steps for which that holds, `end` not included; `None`: to the last. Step 0 is the offset token
            (the first token after those in the cache).
        weight: how many slots it counts as for these heads: its logarithm is added to their scores, so 2 is the same
            slot twice; 0 hides it.
    """

    heads: Bool[Tensor, "layers heads"]
    slot: int = -1
    first: int = 0
    end: int | None = None
    weight: float = 0.0


@dataclass(frozen=True)
class PlacedSlot:
    """A hidden slot put into a batch: its row, its column, and the column of step 0."""

    row: int
    column: int
    origin: int
    hidden: HiddenSlot


class Hiding(Attending):
    """Bars query heads of single rows from reading slots, or weights them."""

    def __init__(self, hf: PreTrainedModel, start: int, placed: Sequence[PlacedSlot]) -> None:
        super().__init__(hf, start)
        far = torch.iinfo(torch.long).max
        self.rows = torch.tensor([p.row for p in placed])
        self.columns = torch.tensor([p.column for p in placed])
        self.first = torch.tensor([p.origin + p.hidden.first for p in placed])
        self.end = torch.tensor([far if p.hidden.end is None else p.origin + p.hidden.end for p in placed])
        self.heads = torch.stack([p.hidden.heads for p in placed])
        self.logs = torch.tensor([math.log(p.hidden.weight) if p.hidden.weight else -math.inf for p in placed])

    def hide(self, layer: int, column: int, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        n_rows, n_heads, time, slots = query.shape[0], query.shape[1], query.shape[2], keys.shape[2]
        at = torch.arange(column, column + time)
        steps = (at >= self.first[:, None]) & (at < self.end[:, None])
        where = self.columns - (column + time - slots)
        barred = self.heads[:, layer, :, None] & steps[:, None] & (where >= 0)[:, None, None]
        chosen = barred.flatten(1).any(1)
        if not chosen.any():
            return mask
        logs = self.logs[chosen].clamp_min(torch.finfo(mask.dtype).min).to(mask.dtype)[:, None, None]
        added = torch.where(barred[chosen], logs, torch.zeros_like(logs)).to(mask.device)
        rows, where = self.rows[chosen].to(mask.device), where[chosen].to(mask.device)
        mask = mask.expand(n_rows, n_heads, time, slots).clone()
        heads, queries = torch.arange(n_heads, device=mask.device), torch.arange(time, device=mask.device)
        index = (rows[:, None, None], heads[None, :, None], queries[None, None, :], where[:, None, None])
        return mask.index_put_(index, added, accumulate=True)
