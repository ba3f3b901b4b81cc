"""What random vectors give where a steering stands: their middle 95%, and how many of them do as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..stats.significance import control_p


def band(value: float, each: Sequence[float], name: str = "") -> dict[str, float]:
    """`random_low`, `random_high` and `p_random`, the share of the controls (plus one) that reach `value`; with a name,
    `random_NAME_low` and so on.

    Nothing where there are no controls.
    """
    if len(each) == 0:
        return {}
    suffix = f"_{name}" if name else ""
    low, high = np.quantile(each, [0.025, 0.975])
    return {
        f"random{suffix}_low": float(low),
        f"random{suffix}_high": float(high),
        f"p_random{suffix}": control_p(value, each),
    }


def control_means(rows: pd.DataFrame, label: str, column: str = "correct") -> list[float]:
    """The mean of a column for each control of the intervention `label`, in the order of the run."""
    return [float(mean) for mean in rows[rows.control_of == label].groupby("intervention", sort=False)[column].mean()]
