"""Bands of the controls: the middle 95% of random vectors, and how many of them do as well as a steering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..stats.significance import control_p


def band(value: float, each: Sequence[float], name: str = "") -> dict[str, float]:
    """The controls' band beside a value of the steering.

    Args:
        value: of the steering.
        each: the same of every control.
        name: of the value, part of the columns' names.

    Returns:
        `random_low` and `random_high`, the middle 95% of the controls, and `p_random`, the share of them (plus one)
        that reach `value`; with a name `random_NAME_low` and so on. Empty without controls.

    Raises:
        ValueError: NaN or infinity among the values: a missing number is not an effect of zero.

    Examples:
        >>> from kvsteer_lab.evaluation.bands import band
        >>> band(0.9, [0.1, 0.2, 0.3], "accuracy")["p_random_accuracy"]
        0.25
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
    """The mean of a column for each control of an intervention, in the order of the run.

    Args:
        rows: of `Results`.
        label: of the intervention that is controlled.
        column: of numbers or verdicts, without gaps.

    Returns:
        One mean a control; none without controls.

    Raises:
        ValueError: a control's reply without a value in the column.

    Examples:
        >>> import pandas as pd
        >>> from kvsteer_lab.evaluation.bands import control_means
        >>> rows = pd.DataFrame({"control_of": ["s", "s"], "intervention": ["r0", "r1"], "correct": [True, False]})
        >>> control_means(rows, "s")
        [1.0, 0.0]
    """
    controls = rows[rows.control_of == label]
    if controls[column].isna().any():
        raise ValueError(
            f"A control of {label!r} has replies without a value of {column!r}, so they can't be averaged; read the"
            " texts"
            " again, or leave these questions out."
        )
    return [float(mean) for mean in controls.groupby("intervention", sort=False)[column].mean()]
