"""A vector of its own for each prompt: that of the pair whose own slot is most like the prompt's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..edits.base import CacheShape, SlotEdit, Slotted
from ..edits.given import finite_number
from ..edits.scaling import scale
from ..models.model import Model
from ..models.prefill import last_slots
from ..vectors.extraction import extract_pairs, read_sides
from ..vectors.pairs import ContrastiveSet

Memory = Float[Tensor, "pairs layers kv_heads head_dim"]


@dataclass(frozen=True)
class Retrieved(SlotEdit):
    """x -> x + d_i, i the pair whose `own` values are nearest to the slot's, by cosine, in each layer by itself.

    Attributes:
        own: `[pairs, layers, kv_heads, head_dim]`, what slots are compared with.
        keys, values: of the same shape, what is added.
        span, layers, heads, when, every: as in every operator.
    """

    own: Memory = field(repr=False)
    keys: Memory = field(repr=False)
    values: Memory = field(repr=False)

    def check_shape(self, shape: CacheShape) -> None:
        super().check_shape(shape)
        if tuple(self.own.shape[1:]) != shape.vectors:
            raise ValueError(f"The pairs are {tuple(self.own.shape[1:])}, but {shape.name} has {shape.vectors}.")

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        here, there = values.transpose(0, 1).flatten(1), self.own[:, layer].flatten(1).to(values)
        like = torch.nn.functional.normalize(here, dim=-1) @ torch.nn.functional.normalize(there, dim=-1).T
        best = like.argmax(-1).cpu()
        k, v = (part[best, layer].transpose(0, 1).to(values) for part in (self.keys, self.values))
        return keys + k, values + v


@scale.register
def _(edit: Retrieved, factor: float) -> Retrieved:
    return replace(edit, keys=factor * edit.keys, values=factor * edit.values)


def retrieved(model: Model, pairs: ContrastiveSet, ck: float, cv: float) -> Retrieved:
    """Add to the last slot the difference of the pair whose negative side looks most like it (our own; retrieval of a
    vector for each prompt): x + c d_i, i = argmax cos(x, x_i-). Cost: n pairs kept, O(n d) a prompt and layer.

    Args:
        model, pairs: as for `kv.extract_pairs`.
        ck, cv: coefficients of keys and values.

    Returns:
        An operator for `kv.CacheEdits`.

    Raises:
        ValueError: a coefficient that is no finite number, or as `kv.extract_pairs`.

    Example:
        >>> import kvsteer_lab as kv
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> kv.methods.retrieved(kv.load("tiny"), pairs, 0, 2).values.shape
        torch.Size([2, 4, 2, 32])
    """
    ck, cv = finite_number("The coefficient ck", ck), finite_number("The coefficient cv", cv)
    differences = extract_pairs(model, pairs, progress=False)
    own = torch.zeros_like(differences.values)
    for signs, pair, (_, v) in read_sides(model, pairs, 16, lambda ids, mask: last_slots(model, ids, mask), False):
        own.index_add_(0, pair, (signs < 0).float()[:, None, None, None] * v)
    return Retrieved(own, ck * differences.keys, cv * differences.values)
