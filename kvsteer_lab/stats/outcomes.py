"""What every statistic asks of the outcomes it is given: one number a question, none of them missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, "n"]


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Values, Values]:
    """Two sequences of outcomes as arrays.

    Raises:
        ValueError: different lengths, empty ones, NaN or infinity.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape != b.shape or a.size == 0 or a.ndim != 1:
        raise ValueError(f"Paired outcomes need two sequences of one length, not {a.size} and {b.size}.")
    refuse_nan(np.concatenate([a, b]))
    return a, b


def refuse_nan(values: np.ndarray) -> None:
    """Raise a `ValueError` unless all values are finite."""
    if not np.isfinite(values).all():
        raise ValueError(
            "There is NaN or infinity among the outcomes; leave out or repair the rows that have no verdict."
        )
