"""Bands of the controls: the middle 95% of random vectors, and how many of them do as well as a steering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
