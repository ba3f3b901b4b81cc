"""What analyses of pairs ask of the differences that they are given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...vectors.extraction import PairDifferences
from ...vectors.indices import check_indices


def check_single_pairs(differences: object) -> None:
    """Refuse what isn't pair by pair: vectors, for instance, which are a mean.

    Args:
        differences: what was given.

    Raises:
        ValueError: anything but the result of `kv.extract_pairs`.

    Example:
        >>> check_single_pairs("vectors.safetensors")
        Traceback (most recent call last):
        ValueError: Single pairs are looked at; pass what kv.extract_pairs returned, not str.
    """
    if not isinstance(differences, PairDifferences):
        raise ValueError(
            f"Single pairs are looked at; pass what kv.extract_pairs returned, not {type(differences).__name__}."
        )


def check_finite(values: Tensor, part: str) -> None:
    """Refuse differences that are no numbers.

    Args:
        values: of the pairs.
        part: `"keys"` or `"values"`, for the error.

    Raises:
        ValueError: NaN or infinity.

    Example:
        >>> check_finite(torch.ones(2), "keys")
    """
    if not torch.isfinite(values).all():
        raise ValueError(f"The differences' {part} hold NaN or infinity; extract them again, in float32 or bfloat16.")


def check_layers(layers: Sequence[int] | None, n: int) -> list[int]:
    """The chosen layers, in ascending order.

    Args:
        layers: their numbers; `None`: all.
        n: how many there are.

    Raises:
        ValueError: none at all, or one that isn't there.

    Example:
        >>> check_layers([2, 0], 4), check_layers(None, 2)
        ([0, 2], [0, 1])
    """
    chosen = check_indices("layer", layers, n)
    if not chosen:
        raise ValueError("The list of layers is empty; name at least one, or leave layers out for all.")
    return chosen
