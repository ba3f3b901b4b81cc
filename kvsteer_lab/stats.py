"""The statistics that stand beside every figure: intervals, paired tests, controls. On scipy and statsmodels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials make no proportion.")
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return float(low), float(high)


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> float:
    """Exact two-sided McNemar test of paired outcomes: the p-value of the discordant pairs under a fair coin.

    Raises:
        ValueError: sequences of different length, or empty ones.
    """
    a, b = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"Paired outcomes need two sequences of one length, not {a.size} and {b.size}.")
    gained, lost = int((a & ~b).sum()), int((~a & b).sum())
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values of one declared family, in the order given."""
    return [] if len(p_values) == 0 else [float(p) for p in multipletests(list(p_values), method="holm")[1]]


def control_p(effect: float, controls: Sequence[float]) -> float:
    """How often a control does at least as well: (1 + #{control >= effect}) / (R + 1).

    With R controls it can't be below 1 / (R + 1): take at least 39 for 0.025.

    Raises:
        ValueError: no controls.
    """
    if len(controls) == 0:
        raise ValueError("A control-based p-value needs controls; add kv.random_controls(...) to the run.")
    return (1 + sum(c >= effect for c in controls)) / (len(controls) + 1)


def repetition(token_ids: Sequence[int], n: int = 4) -> float:
    """Share of n-grams that are repeats of an earlier one; 0 for texts shorter than n tokens."""
    grams = [tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1)]
    return 0.0 if not grams else 1 - len(set(grams)) / len(grams)
