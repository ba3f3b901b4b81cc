"""Statistics of a single text."""

from __future__ import annotations

from collections.abc import Sequence


def repetition(token_ids: Sequence[int], n: int = 4) -> float:
    """Share of n-grams that are repeats of an earlier one; 0 for texts shorter than n tokens."""
    grams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return 0.0 if not grams else 1 - len(set(grams)) / len(grams)
