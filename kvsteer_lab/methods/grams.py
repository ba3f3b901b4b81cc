"""Values amplified along a direction of the cache's own Gram basis."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..edits.banks import Bank, check_bank
from ..edits.base import CacheShape, SlotEdit, Slotted
from ..edits.given import finite_number, whole_number
from ..edits.scaling import scale
from ..edits.spans import Span
from ..vectors.extraction import PairDifferences
from .differences import check_differences


@dataclass(frozen=True)
class Amplify(SlotEdit):
    """v -> v + g |v.c| c: the part of the values along c grows where it is positive and shrinks where it isn't.

    Attributes:
        directions: c, `[layers, kv_heads, head_dim]`, of length 1.
        gain: g.
        span, layers, heads, when, every: as in every operator.
    """

    directions: Float[Tensor, "layers kv_heads head_dim"] = field(repr=False)
    gain: float

    def __post_init__(self) -> None:
        super().__post_init__()
        finite_number("The gain", self.gain)

    def check_shape(self, shape: CacheShape) -> None:
        super().check_shape(shape)
        if tuple(self.directions.shape) != shape.vectors:
            raise ValueError(
                f"The directions are {tuple(self.directions.shape)}, but {shape.name} has {shape.vectors}."
            )

    def changed(self, layer: int, keys: Slotted, values: Slotted) -> tuple[Slotted, Slotted]:
        c = self.directions[layer][:, None].to(values)
        return keys, values + self.gain * (values * c).sum(-1, keepdim=True).abs() * c


@scale.register
def _(edit: Amplify, factor: float) -> Amplify:
    return replace(edit, gain=factor * edit.gain)


def value_gram(
    differences: PairDifferences, cached: Bank, gain: float, rank: int = 16, *, span: Span, every: bool = False
) -> Amplify:
    """Amplify values along c = B B^T mean d_i / |.|, with B the first `rank` eigenvectors of the values' Gram matrix G
    = V^T V: v + g |v.c| c (after `value_gram` of steering-lite, wassname 2026, whose means are over all slots of both
    sides; here they are the pairs' differences at the last one). Cost: an eigenproblem d x d for each layer and head,
    then O(d) a slot.

    Args:
        differences: of each pair.
        cached: slots whose values make G: a typical prompt's.
        gain: g.
        rank: of B.
        span: which slots.
        every: whether new tokens' slots, too, as there.

    Returns:
        An operator for `kv.CacheEdits`.

    Raises:
        ValueError: a rank below 1 or above the head's width, or a gain that is no number.

    Example:
        >>> import kvsteer_lab as kv
        >>> model = kv.load("tiny")
        >>> pairs = kv.ContrastiveSet.from_texts(["Step 1, add. Sum?", "Step 1, add. Rest?"], ["Sum?", "Rest?"])
        >>> differences = kv.extract_pairs(model, pairs, progress=False)
        >>> cached = kv.edits.Bank.of(model, "What is 2 + 3?")
        >>> kv.methods.value_gram(differences, cached, 0.5, span=kv.spans.Everything()).gain
        0.5
    """
    check_bank(cached)
    check_differences(differences, PairDifferences)
    values, mean = cached.values.double(), differences.values.double().mean(0)
    if not 1 <= whole_number("The rank", rank) <= values.shape[-1]:
        raise ValueError(f"rank={rank!r} must be 1 to {values.shape[-1]}, the head's width.")
    basis = torch.linalg.eigh(values.transpose(-1, -2) @ values).eigenvectors[..., -rank:]
    along = (basis @ (basis.transpose(-1, -2) @ mean[..., None]))[..., 0]
    return Amplify(torch.nn.functional.normalize(along, dim=-1).float(), gain, span=span, every=every)
