"""Layers and KV heads by number, as callers name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex

import numpy as np

Indices = Iterable[SupportsIndex] | SupportsIndex
"""One index or several, of Python or NumPy."""


def check_indices(what: str, chosen: Indices | None, n: int) -> list[int]:
    """A sorted list of distinct indices below `n`.

    Args:
        what: what is counted, for messages: `"layer"`, `"KV head"`.
        chosen: one index or several, of Python or NumPy; `None`: all.
        n: how many there are.

    Raises:
        ValueError: an index that isn't a whole number in range.

    Example:
        >>> check_indices("layer", [2, 0, 2], 4), check_indices("layer", None, 2), check_indices("layer", 3, 4)
        ([0, 2], [0, 1], [3])
    """
    if chosen is None:
        return list(range(n))
    given = [chosen] if isinstance(chosen, SupportsIndex) and not isinstance(chosen, Iterable) else chosen
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise ValueError(f"There is no {what} {chosen!r}; name {what}s by whole numbers, 0 to {n - 1}.")
    indices: set[int] = set()
    for each in given:
        if not isinstance(each, SupportsIndex) or isinstance(each, bool | np.bool_):
            raise ValueError(f"There is no {what} {each!r}; name {what}s by whole numbers, 0 to {n - 1}.")
        index = each.__index__()
        if not 0 <= index < n:
            raise ValueError(f"There is no {what} {each!r}; this model has {what}s 0 to {n - 1}.")
        indices.add(index)
    return sorted(indices)
