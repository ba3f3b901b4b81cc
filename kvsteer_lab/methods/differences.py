"""What all extraction methods share: they turn the differences of single pairs into one vector for each layer (and KV
head), of keys and values or of the residual stream, which has the norm of the mean difference, so that a coefficient
means the same relative strength for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, overload

import torch
from jaxtyping import Float
from torch import Tensor

from ..vectors.activation import ActivationVectors
from ..vectors.activation_pairs import ActivationDifferences
from ..vectors.extraction import PairDifferences
from ..vectors.kv import KVVectors

Rows = Float[Tensor, "*heads pairs width"]
Direction = Float[Tensor, "*heads width"]
Vectors = TypeVar("Vectors", KVVectors, ActivationVectors)
Differences = PairDifferences | ActivationDifferences


@overload
def directions(differences: PairDifferences, find: Callable[[Rows], Direction], step: str) -> KVVectors: ...
@overload
def directions(
    differences: ActivationDifferences, find: Callable[[Rows], Direction], step: str
) -> ActivationVectors: ...
def directions(differences: Differences, find: Callable[[Rows], Direction], step: str) -> KVVectors | ActivationVectors:
    """A direction for each layer (and KV head), with the mean difference's sign and norm.

    Args:
        differences: of each pair.
        find: from differences `[..., pairs, width]`, float64, to directions `[..., width]` of any length and sign.
        step: what the card's history says.

    Returns:
        `KVVectors` or `ActivationVectors`.
    """
    check_differences(differences)
    own = differences.mean().card
    card = own.after(step)
    if isinstance(differences, ActivationDifferences):
        return ActivationVectors(_sized(differences.residuals, find), card)
    return KVVectors(_sized(differences.keys, find), _sized(differences.values, find), card)


def check_differences(given: object, *kinds: type) -> None:
    """Refuse what isn't the differences of single pairs.

    Args:
        given: what was given as such.
        kinds: which will do; none: those of keys and values and of the residual stream.

    Raises:
        ValueError: something else, a mean for instance.

    >>> check_differences("pairs")
    Traceback (most recent call last):
    ValueError: Differences of single pairs are asked for, as kv.extract_pairs makes them, not a str.
    """
    if not isinstance(given, kinds or (PairDifferences, ActivationDifferences)):
        raise ValueError(
            f"Differences of single pairs are asked for, as kv.extract_pairs makes them, not a {type(given).__name__}."
        )


def each_part(one: Vectors, find: Callable[[Tensor], Tensor], step: str) -> Vectors:
    """Vectors with every part changed: keys and values, or the residual stream's.

    Args:
        one: the vectors.
        find: from a part to what takes its place, of the same shape.
        step: what the card's history says.
    """
    card = one.card.after(step)
    if isinstance(one, KVVectors):
        return KVVectors(find(one.keys), find(one.values), card)
    return replace(one, residuals=find(one.residuals), card=card)


def _sized(
    part: Float[Tensor, "pairs *heads width"], find: Callable[[Rows], Direction]
) -> Float[Tensor, "*heads width"]:
    rows = part.double().movedim(0, -2)
    mean = rows.mean(-2)
    direction = torch.nn.functional.normalize(find(rows), dim=-1)
    sign = torch.where((direction * mean).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return (sign * direction * mean.norm(dim=-1, keepdim=True)).float()
